"""What a node is configured with, checked before anything starts.

Rules of this file:

- Every way in (`TailnetConfig(...)`, `from_file`, `from_env`, `model_validate`) ends in a valid
  configuration or in a TailnetConfigError that names the fields and the reasons.
- A value that a message quotes is none that may hold a key.
- One class, and long for that: each field with its check, its default and the place where its value
  comes from is read together, and stands once more in the signature that type checkers read.
- Go sees only the environment the process was started with, so every variable is read here, when
  the node joins, and passed on explicitly.

The auth key comes from the first of these that is set:

1. `auth_key`
2. the environment variable TS_AUTHKEY, then TS_AUTH_KEY
3. the file that TS_AUTHKEY_FILE names
4. the file `auth_key_file`

Wherever a key or a client secret is taken, "file:PATH" names a file that has it; and a client
secret may stand wherever a key does.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import pwd
import re
import shutil
import stat
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from ._configuration.files import CONFIG_LIMIT, read_text
from ._configuration.keys import CLIENT_SECRET, FILE, check_key, read_key, with_parameters
from ._configuration.settings import Settings, looks_like_key, way_in
from .errors import TailnetConfigError
from .retry import RetryPolicy

if TYPE_CHECKING:
    from typing_extensions import Self

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["TailnetConfig"]

T = TypeVar("T", bound="TailnetConfig")

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)
ROUTE = re.compile(r"[0-9a-f:.]+/(0|[1-9]\d*)", re.IGNORECASE | re.ASCII)
TAG = re.compile(r"tag:[a-zA-Z][a-zA-Z0-9-]*")

# What tsnet would fall back to behind the configuration's back, and what from_env reads.
OURS = {
    "TS_AUTHKEY",
    "TS_AUTH_KEY",
    "TS_AUTHKEY_FILE",
    "TS_CLIENT_SECRET",
    "TS_CLIENT_ID",
    "TS_ID_TOKEN",
    "TS_AUDIENCE",
    "TS_CONTROL_URL",
    "TSNET_FORCE_LOGIN",
    "TS_HOSTNAME",
    "TS_STATE_DIR",
    "TS_ROUTES",
    "TS_SOCKET",
    "TS_TAGS",
    "TS_EPHEMERAL",
}
# What else Tailscale's code and Go's standard library read from the environment.
SHARED = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}

_SBIN = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")

_OF_TAILSCALED = {"tailscaled_socket", "tailscaled_managed", "tailscaled_path"}
# What fits into a sockaddr_un, with a NUL.
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107

# What is decided where the daemon is set up.
_OF_THE_NODE = {
    "hostname",
    "require_hostname",
    "tags",
    "state_dir",
    "trust_state_dir",
    "ephemeral",
    "port",
    "accept_routes",
    "exit_node",
    "advertise_routes",
    "log_upload",
    "tailscaled_path",
}

# from_env: variable -> field. The names are those of Tailscale's container image where it has one.
VARIABLES = {
    "TS_HOSTNAME": "hostname",
    "TS_STATE_DIR": "state_dir",
    "TS_ROUTES": "advertise_routes",
    "TS_SOCKET": "tailscaled_socket",
    "TS_TAGS": "tags",
    "TS_EPHEMERAL": "ephemeral",
}

# What else from_env() takes where it is given an environment: of the process's own, this is read
# when the node joins. A later name wins.
LATE_VARIABLES = {
    "TS_CONTROL_URL": "control_url",
    "TS_AUTHKEY_FILE": "auth_key_file",
    "TS_AUTH_KEY": "auth_key",
    "TS_AUTHKEY": "auth_key",
}


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


# What starts programs of every kind: two services would have one name, and one state directory.
_LAUNCHERS = re.compile(
    "python[0-9-]*|pypy[0-9-]*|ipython[0-9]*|bpython|ptpython|idle[0-9-]*|spyder|ipykernel(-launcher)?"
    "|jupyter.*|voila|streamlit|gradio|panel|bokeh|chainlit|marimo|papermill"
    "|uvicorn|gunicorn|hypercorn|granian|daphne|waitress(-serve)?|uwsgi|mod-wsgi.*|cherryd|twistd?"
    "|flask|quart|fastapi|litestar|sanic|robyn|pserve|django-admin|manage"
    "|celery|dramatiq|rq|rqworker|huey-consumer|arq|taskiq|airflow|dagster|prefect|locust"
    "|py-?test|nose2?|unittest|behave|robot|tox|nox|coverage|pdb|debugpy|pydevd|pydev-?console"
    "|invoke|fab|pex|shiv|pipx|uv|poetry|hatch|supervisord|circusd|honcho"
)


def _program() -> str:
    """Return what this program, or what started it, is called as a host name, or ""."""
    path = Path(sys.argv[0] if sys.argv else "")
    name = re.sub(r"\.(py[cowz]?|exe)$", "", path.name, flags=re.IGNORECASE)
    if name in {"__main__", "__init__"}:  # of a package that `python -m` runs
        name = path.parent.name
    if name.startswith("-"):  # "-c", or "-" for a script on standard input
        return ""
    return _nearest_label(name.replace(".", "-"))


def _program_name() -> str:
    """Return this program's own name, or ""; tsnet's default would be the interpreter's."""
    name = _program()
    return "" if _LAUNCHERS.fullmatch(name) else name


def _no_name() -> str:
    """Say why there is no default for the hostname, and what to do."""
    why = "this program has no name that a host could have"
    if launcher := _program():
        why = f"this program was started by {launcher}, which starts others too"
    return f'{why}; give hostname="...", or set TS_HOSTNAME and use TailnetConfig.from_env()'


def _nearest_label(text: str) -> str:
    """Return the host name that a text comes closest to, or ""."""
    ascii_ = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    first = next(filter(None, ascii_.strip().split(".")), "")
    return re.sub(r"[^a-z0-9]+", "-", first).strip("-")[:63].strip("-")


def _check_path(value: Any) -> Any:
    """Refuse what pathlib would take for another file, and what is no path at all."""
    if isinstance(value, (str, Path)):
        text = str(value).strip() if isinstance(value, str) else str(value)
        if not text:
            raise ValueError("must not be empty; leave it out instead")
        if "\0" in text:
            raise ValueError("holds a NUL character")
        if not _is_text(text):
            raise ValueError(_NOT_TEXT)
        _refuse_key(text)
        try:
            return Path(text).expanduser()
        except RuntimeError:  # "~name" of nobody, or no home directory at all
            raise ValueError('has a "~" that stands for no home directory') from None
    return value


_NOT_TEXT = "is not text in UTF-8; give it a name that is"


def _is_text(path: str) -> bool:
    """Report whether a path can be passed on: two that cannot would become the same one."""
    try:
        path.encode()
    except UnicodeEncodeError:  # os.fsdecode makes surrogates of bytes that are not UTF-8
        return False
    return True


def _refuse_key(text: str) -> None:
    # It would be shown in the repr, and in errors about a file that is not there.
    if looks_like_key(text):
        raise ValueError("looks like a key, which belongs in auth_key or client_secret")


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
File = Annotated[Path, BeforeValidator(_check_path)]


class TailnetConfig(Settings):
    """The settings of one node. Immutable; every field has a default.

    Raises:
        TailnetConfigError: for any value that cannot be used. Nothing was started.
    """

    hostname: str = Field(
        default_factory=_program_name,
        description="The name asked for, a DNS label; control may assign name-1, with a warning. "
        "Default: the program's own name; needed where there is none (python -c, a notebook) or "
        "that of what starts it (uvicorn, celery, pytest). from_env: TS_HOSTNAME.",
    )
    require_hostname: bool = Field(
        default=False,
        description="Whether another name than `hostname`, such as name-1, is an error. A machine "
        "that was new then logs out, and state_dir is as it was before.",
    )
    auth_key: SecretStr | None = Field(
        default=None,
        description="The key to join with, or file:PATH for one that a file has. None: TS_AUTHKEY, "
        "then the file that TS_AUTHKEY_FILE names, then auth_key_file.",
    )
    auth_key_file: File | None = Field(
        default=None, description="A file whose first line is the key. Read when joining."
    )
    client_secret: SecretStr | None = Field(
        default=None,
        description="An OAuth client secret, or file:PATH, to make a key with where the node needs "
        "one; needs tags. None: TS_CLIENT_SECRET.",
    )
    preauthorized: bool = Field(
        default=False,
        description="Whether nodes that join by an OAuth client secret need no admin's approval.",
    )
    tags: Names = Field(default=(), description='Tags to ask for, "tag:name". from_env: TS_TAGS.')
    control_url: str | None = Field(
        default=None,
        description="The control server, http(s)://host. None: TS_CONTROL_URL, then Tailscale's.",
    )
    state_dir: File | None = Field(
        default=None,
        description="Where the node's identity is kept; made with mode 0700, and locked while in "
        "use. None: $XDG_STATE_HOME/tailnet/<hostname>-<hash of control_url>; an ephemeral node "
        "then keeps it in memory. from_env: TS_STATE_DIR.",
    )
    trust_state_dir: bool = Field(
        default=False,
        description="Whether to use a state_dir that other users could change: one that belongs to "
        "another user than root and this one, or that others may write to.",
    )
    ephemeral: bool = Field(
        default=False, description="Whether control forgets the node once it is gone."
    )
    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="UDP port for peers. 0 picks one; so does one that is taken, with a warning.",
    )
    backend: Literal["embedded", "tailscaled"] = Field(
        default="embedded", description="A node in this process, or a tailscaled that runs."
    )
    tailscaled_socket: File | None = Field(
        default=None,
        description="tailscaled's socket. None: where Tailscale puts it. from_env, for "
        'backend="tailscaled": TS_SOCKET.',
    )
    tailscaled_managed: bool = Field(
        default=False,
        description="Whether to run tailscaled as a child, in userspace mode: with a socket of its "
        "own, on state_dir, until the node is closed or this process ends.",
    )
    tailscaled_path: File | None = Field(
        default=None,
        description="The tailscaled to run. None: from PATH, then the sbin directories.",
    )
    accept_routes: bool = Field(default=False, description="Use the subnets that peers route.")
    exit_node: str | None = Field(
        default=None, description="The peer, by IP or name, that takes traffic to the internet."
    )
    advertise_routes: Names = Field(default=(), description="Subnets to offer, as CIDR.")
    connect_timeout: float = Field(
        default=10.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds without any news from control after which an attempt fails.",
    )
    retry: RetryPolicy = Field(
        default_factory=RetryPolicy, description="How to try again when control is unreachable."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level that reaches logging.getLogger('tailnet')."
    )
    log_upload: bool = Field(
        default=False, description="Whether logs go to Tailscale. One value for the process."
    )
    allow_host_network: bool = Field(
        default=False,
        description="Whether a dial to what is not on the tailnet may use this host's network.",
    )

    if TYPE_CHECKING:  # what a field takes, which may be more than what it then holds

        def __init__(
            self,
            *,
            hostname: str = ...,
            require_hostname: bool = ...,
            auth_key: str | SecretStr | None = ...,
            auth_key_file: str | Path | None = ...,
            client_secret: str | SecretStr | None = ...,
            preauthorized: bool = ...,
            tags: str | Iterable[str] = ...,
            control_url: str | None = ...,
            state_dir: str | Path | None = ...,
            trust_state_dir: bool = ...,
            ephemeral: bool = ...,
            port: int = ...,
            backend: Literal["embedded", "tailscaled"] = ...,
            tailscaled_socket: str | Path | None = ...,
            tailscaled_managed: bool = ...,
            tailscaled_path: str | Path | None = ...,
            accept_routes: bool = ...,
            exit_node: str | None = ...,
            advertise_routes: str | Iterable[str] = ...,
            connect_timeout: float = ...,
            retry: RetryPolicy | Mapping[str, Any] = ...,
            log_level: Literal["debug", "info", "warning", "error"] = ...,
            log_upload: bool = ...,
            allow_host_network: bool = ...,
        ) -> None: ...

    # --- other ways in -------------------------------------------------------------------------

    @classmethod
    @way_in
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a TOML or JSON file: its section [tailnet], or [tailscale].

        Relative paths in it are relative to the file's directory.

        Raises:
            TailnetConfigError: the file cannot be read, or holds what cannot be used.
        """
        given: Any = path
        if not isinstance(given, (str, os.PathLike)):
            raise TailnetConfigError(
                f"from_file: want the path of a file, and not {type(given).__name__}"
            )
        if not str(path):
            raise TailnetConfigError("from_file: the path is empty")
        if looks_like_key(str(path)) and not os.path.exists(path):  # noqa: PTH110 - never raises
            raise TailnetConfigError("from_file: want the path of a file, not a key")
        path = Path(path).absolute()  # what it names is there, wherever the program then goes
        text = read_text(path, CONFIG_LIMIT)
        problem = ""
        document: Any = None
        try:
            document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except RecursionError:
            problem = f"{path} is nested too deep"
        except ValueError as e:  # its message quotes a position, not the text
            kind = "JSON" if path.suffix == ".json" else "TOML"
            problem = f"{path} is not {kind}: {e}" if kind == "TOML" else f"{path} is not JSON"
        if problem:
            raise TailnetConfigError(problem)
        fields = _section(path, document)
        try:
            for name in ("auth_key_file", "state_dir", "tailscaled_socket", "tailscaled_path"):
                if isinstance(fields.get(name), str) and fields[name].strip():
                    fields[name] = path.parent / _check_field(name, fields[name])
            return cls(**fields)
        except TailnetConfigError as e:
            problem = f"{path}: {e}"
        raise TailnetConfigError(problem)

    @classmethod
    @way_in
    def from_env(cls, environ: Mapping[str, str] | None = None, **fields: Any) -> Self:
        """Take fields from TS_* variables; those given by name win.

        A variable of which the backend makes no use is not read: it is there for somebody else.
        So TS_SOCKET alone does not make a program use a tailscaled; `backend` is given by name.

        Args:
            environ: The environment, of which TS_CONTROL_URL and the key are taken too; None is
                os.environ, of which those are read when the node joins.
            **fields: As of TailnetConfig.
        """
        if environ is None:
            return cls._from_env(os.environ, VARIABLES, fields)
        given: Any = environ
        if not isinstance(given, Mapping):
            raise TailnetConfigError(
                f"from_env: want a mapping of variables, and not {type(given).__name__}"
            )
        return cls._from_env(environ, {**VARIABLES, **LATE_VARIABLES}, fields)

    @classmethod
    def _from_env(
        cls, environ: Mapping[str, str], variables: Mapping[str, str], fields: dict[str, Any]
    ) -> Self:
        managed = bool(fields.get("tailscaled_managed"))
        unused, _ = _unused(fields.get("backend", "embedded"), managed=managed)
        found: dict[str, Any] = {
            field: environ[name]
            for name, field in variables.items()
            if environ.get(name) and field not in unused
        }
        try:
            return cls(**{**found, **fields})
        except TailnetConfigError as e:
            said = str(e)
        names = [
            name
            for name, field in variables.items()
            if field in found.keys() - fields and f"{field}: " in said and environ.get(name)
        ]
        raise TailnetConfigError(f"{said} (from {', '.join(names)})" if names else said)

    # --- checks -------------------------------------------------------------------------------

    @field_validator("hostname")
    @classmethod
    def _check_hostname(cls, value: str) -> str:
        _refuse_key(value.lower())
        if not LABEL.fullmatch(value):
            near = _nearest_label(value)
            raise ValueError(
                "must be a DNS label (letters, digits and inner hyphens, at most 63), unlike"
                f" {value!r}" + (f"; {near!r} is one" if near else "")
            )
        return value.lower()

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(TAG.fullmatch(tag) for tag in value):
            raise ValueError('each must look like "tag:name"')
        for tag in value:
            _refuse_key(tag)
        return value

    @field_validator("control_url")
    @classmethod
    def _check_control_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = _control_url(value)
        _refuse_key(url)
        return url

    @field_validator("advertise_routes")
    @classmethod
    def _check_routes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for route in value:
            problem = "each must be a subnet such as 10.1.0.0/16, without host bits"
            if not ROUTE.fullmatch(route):
                raise ValueError(problem)
            try:
                ipaddress.ip_network(route)
            except ValueError:
                raise ValueError(problem) from None
        return value

    @field_validator("auth_key", "client_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_key(value.get_secret_value())
        return value

    @field_validator("exit_node")
    @classmethod
    def _check_exit_node(cls, value: str | None) -> str | None:
        if value is not None and not value:
            raise ValueError("must be an IP address or a name, or be left out")
        _refuse_key(value or "")
        return value

    @field_validator("tailscaled_socket")
    @classmethod
    def _check_socket(cls, value: Path | None) -> Path | None:
        if value is not None and (length := len(os.fsencode(value))) > _LONGEST_SOCKET:
            raise ValueError(
                f"is {length} bytes long, and the path of a socket has at most {_LONGEST_SOCKET};"
                " use a shorter one, such as a symbolic link to it"
            )
        return value

    @field_validator("tailscaled_path")
    @classmethod
    def _check_tailscaled(cls, value: Path | None) -> Path | None:
        if value is not None and value.name == "tailscale":
            raise ValueError("is the command-line tool tailscale; give the daemon, tailscaled")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> TailnetConfig:
        if not self.hostname and not self._daemon_is_theirs():
            raise ValueError(f"hostname: {_no_name()}")
        given = sorted(_OF_TAILSCALED & self._given())
        if self.backend == "embedded" and given:
            raise ValueError(
                f'{", ".join(given)}: only for backend="tailscaled"; add that, or leave it out'
            )
        for name in ("auth_key", "client_secret"):
            if (secret := getattr(self, name)) is not None:
                self._usable(name, secret.get_secret_value())
        return self

    # --- what the node is given ---------------------------------------------------------------

    def resolved_control_url(self, environ: Mapping[str, str]) -> str:
        """Return the control server's URL; "" is Tailscale's."""
        if self.control_url is not None:
            return self.control_url
        value = environ.get("TS_CONTROL_URL", "")
        try:
            return _control_url(value) if value else ""
        except ValueError as e:
            problem = f"TS_CONTROL_URL: {e}"
        raise TailnetConfigError(problem)

    def resolved_socket(self) -> str:
        """Return the path of the daemon's socket; "" is where Tailscale puts it."""
        if self.tailscaled_socket is None or not self._daemon_is_theirs():
            return ""
        path = self.tailscaled_socket
        try:
            mode = path.stat().st_mode
        except OSError:  # joining says it: a daemon may come yet
            return str(path)
        if stat.S_ISSOCK(mode):
            return str(path)
        kind = "a directory" if stat.S_ISDIR(mode) else "no socket"
        raise TailnetConfigError(
            f"tailscaled_socket: {path} is {kind}; give the socket of tailscaled itself, such as"
            " /run/tailscale/tailscaled.sock, or leave it out"
        )

    def resolved_state_dir(self, environ: Mapping[str, str]) -> str:
        """Return the state directory; "" keeps the state in memory."""
        if self.state_dir is not None:
            return str(self.state_dir.absolute())
        if self.ephemeral:
            return ""
        base = environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(base):  # noqa: PTH117 - relative ones are ignored: XDG Base Directory
            base = str(Path(_home(environ), ".local/state"))
        control = self.resolved_control_url(environ)
        digest = hashlib.sha256(control.encode()).hexdigest()[:8]
        return str(Path(base, "tailnet", f"{self.hostname}-{digest}").absolute())

    def _writable_state_dir(self, environ: Mapping[str, str]) -> str:
        """Return the state directory, where the default is one that this user can have."""
        path = self.resolved_state_dir(environ)
        if self.state_dir is not None or self.ephemeral:
            return path
        there = next(p for p in (Path(path), *Path(path).parents) if os.access(p, os.F_OK))
        if not os.access(there, os.W_OK | os.X_OK):
            raise TailnetConfigError(
                f"state_dir: this user may not write to {there}, and the default is {path}; set"
                " state_dir, or XDG_STATE_HOME, to a directory that it may write to, or"
                " ephemeral=True for a node that keeps no identity"
            )
        return path

    def resolved_auth_key(self, environ: Mapping[str, str]) -> str:
        """Return the key, by the order of this module; "" where there is none."""
        if self.auth_key is not None:
            return self._key("auth_key", self.auth_key.get_secret_value())
        for name in ("TS_AUTHKEY", "TS_AUTH_KEY"):
            if key := self._key(name, environ.get(name, "")):
                return key
        if path := environ.get("TS_AUTHKEY_FILE", "").strip():
            return self._key("TS_AUTHKEY_FILE", FILE + path)
        if self.auth_key_file is not None:
            return self._key("auth_key_file", FILE + str(self.auth_key_file))
        return ""

    def resolved_client_secret(self, environ: Mapping[str, str]) -> str:
        """Return the OAuth client secret, with the parameters of its keys; "" if there is none."""
        if self.client_secret is not None:
            return self._key("client_secret", self.client_secret.get_secret_value())
        return (
            self._key("TS_CLIENT_SECRET", environ.get("TS_CLIENT_SECRET", "")) if self.tags else ""
        )

    def _key(self, source: str, value: str) -> str:
        key = read_key(source, value)
        try:
            return self._usable(source, key)
        except ValueError as e:
            problem = str(e)
        raise TailnetConfigError(problem)

    def _usable(self, source: str, key: str) -> str:
        """Return a key as the library is given it; raise ValueError where it cannot be used."""
        is_secret = key.startswith(CLIENT_SECRET)
        if not self.tags and (
            source == "client_secret" or (is_secret and self.backend == "embedded")
        ):
            raise ValueError(
                f"{source}: an OAuth client secret needs tags=, because a key it makes is for"
                " tagged nodes"
            )
        if not is_secret:
            return key
        given = "preauthorized" in self.model_fields_set
        try:
            return with_parameters(
                key,
                ephemeral=self.ephemeral,
                preauthorized=self.preauthorized if given else None,
            )
        except ValueError as e:
            problem = f"{source}: {e}"
        raise ValueError(problem)

    @way_in
    def to_native(self, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the document of tailnet_node_new, with every variable and file resolved.

        Raises:
            TailnetConfigError: a file or variable behind a field cannot be used.
        """
        environ = os.environ if environ is None else environ
        secret = self.resolved_client_secret(environ)
        document: dict[str, Any] = {
            "backend": self.backend,
            "hostname": self.hostname or self.called(),
            "require_hostname": self.require_hostname,
            "auth_key": self.resolved_auth_key(environ),
            "client_secret": secret,
            "tags": list(self.tags),
            "control_url": self.resolved_control_url(environ),
            "state_dir": "" if self._daemon_is_theirs() else self._writable_state_dir(environ),
            "trust_state_dir": self.trust_state_dir,
            "ephemeral": self.ephemeral,
            "port": self.port,
            "accept_routes": self.accept_routes,
            "exit_node": self.exit_node or "",
            "advertise_routes": list(self.advertise_routes),
            "connect_timeout": self.connect_timeout,
            "allow_host_network": self.allow_host_network,
            "log_level": self.log_level,
            "tailscaled_socket": self.resolved_socket(),
            "tailscaled_managed": self.tailscaled_managed,
            "tailscaled_path": self._resolved_tailscaled(environ),
            "process": {"log_upload": self.log_upload, "env": _shared_environment(environ)},
        }
        for name in ("state_dir", "tailscaled_socket", "tailscaled_path"):  # absolute only by now
            if not _is_text(document[name]):
                raise TailnetConfigError(f"{name}: {document[name]} {_NOT_TEXT}")
        return document

    def _resolved_tailscaled(self, environ: Mapping[str, str]) -> str:
        """Return the daemon to run; "" where none is needed, or there is none."""
        if self.tailscaled_path is not None:
            return str(self.tailscaled_path.absolute())
        if not self.tailscaled_managed:
            return ""
        # An ordinary user's PATH does not have where packages install it.
        path = os.pathsep.join([environ.get("PATH", os.defpath), *_SBIN])
        return shutil.which("tailscaled", path=path) or ""

    def _daemon_is_theirs(self) -> bool:
        return self.backend == "tailscaled" and not self.tailscaled_managed

    def called(self) -> str:
        """Return what the node is called as long as it has not joined."""
        return "tailscaled" if self._daemon_is_theirs() else self.hostname

    def _given(self) -> set[str]:
        """Return the fields that were set, to something else than their defaults."""
        fields = type(self).model_fields
        return {
            name
            for name in self.model_fields_set
            if name == "hostname" or getattr(self, name) != fields[name].default
        }

    def ignored(self) -> str:
        """Say which fields were given that this backend does not use, and why; or ""."""
        names, why = _unused(self.backend, managed=self.tailscaled_managed)
        given = sorted(names & self._given())
        return f"{', '.join(given)} ({why})" if given else ""


def _documented(cls: type[TailnetConfig]) -> str:
    """Return the class's docstring with its fields, for help()."""
    fields = "\n".join(f"        {name}: {f.description}" for name, f in cls.model_fields.items())
    return f"{cls.__doc__}\n    Args:\n{fields}\n"


TailnetConfig.__doc__ = _documented(TailnetConfig)


def _unused(backend: str, *, managed: bool) -> tuple[set[str], str]:
    """Return the fields that a backend does not use, and why."""
    if backend != "tailscaled":
        return _OF_TAILSCALED, 'for backend="tailscaled"'
    if managed:
        return {"tailscaled_socket"}, "a managed tailscaled has a private one"
    return _OF_THE_NODE, (
        "a tailscaled that runs has settings of its own: `tailscale set` changes them, and"
        " tailscaled_managed=True runs one for this program"
    )


def _section(path: Path, document: Any) -> dict[str, Any]:
    found = [document.get(n) for n in ("tailnet", "tailscale")] if _is_table(document) else []
    tables = [table for table in found if _is_table(table)]
    if len(tables) != 1:
        raise TailnetConfigError(f"{path} needs one section: [tailnet] or [tailscale]")
    return dict(tables[0])


def _is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _home(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "")
    if os.path.isabs(home):  # noqa: PTH117 - strings throughout
        return home
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # in a container, a user without an entry in passwd
        problem = (
            "state_dir: there is no home directory for it; set it, or XDG_STATE_HOME, or HOME, or"
            " ephemeral=True for a node that keeps no identity"
        )
    raise TailnetConfigError(problem)


def _check_field(name: str, value: str) -> Path:
    try:
        path: Path = _check_path(value)
    except ValueError as e:
        problem = f"{name}: {e}"
    else:
        return path
    raise TailnetConfigError(problem)


def _control_url(value: str) -> str:
    form = "must be http://host[:port] or https://host[:port]"
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:  # its message quotes the value
        raise ValueError(form) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not value.isprintable():
        raise ValueError(form)
    if " " in value:
        raise ValueError("holds a space")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have neither a user, nor a query, nor a fragment")
    return value.rstrip("/")


def _shared_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that Tailscale's code keeps once per process."""
    return {
        name: value
        for name, value in environ.items()
        if (name.startswith("TS_") and name not in OURS) or name.upper() in SHARED
    }
