"""What a node is configured with, checked before anything starts.

Rules of this file:

- Every way in (`TailnetConfig(...)`, `from_file`, `from_env`, `model_validate`) ends in a valid
  configuration or in a TailnetConfigError that names fields and reasons, and quotes no key.
- Each field is said once, with what else there is to know of it (`Use`); only type checkers read it
  a second time, in the signature that says what it takes. What is checked is in _configuration/.
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

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from ._configuration.environment import control_url as checked_url
from ._configuration.environment import shared
from ._configuration.fields import (
    OF_OUR_NODE,
    WHY_UNUSED,
    Use,
    native,
    unused,
    variables,
    way_of,
)
from ._configuration.keys import CLIENT_SECRET, FILE, check_key, read_key, with_parameters
from ._configuration.names import check_route, check_tag, checked_label, no_name, program_name
from ._configuration.paths import NOT_TEXT, File, Names, is_text, refuse_key
from ._configuration.places import (
    check_socket,
    default_state_dir,
    find_tailscaled,
    require_socket,
    require_writable,
)
from ._configuration.reading import fields_of, file_of, placed
from ._configuration.settings import Settings, way_in
from .errors import TailnetConfigError
from .retry import RetryPolicy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TailnetConfig"]


class TailnetConfig(Settings):
    """The settings of one node. Immutable; every field has a default.

    Raises:
        TailnetConfigError: for any value that cannot be used. Nothing was started.
    """

    hostname: Annotated[str, Use(variable="TS_HOSTNAME", by=OF_OUR_NODE)] = Field(
        default_factory=program_name,
        description="The name asked for, a DNS label; control may assign name-1, with a warning. "
        "Default: the program's own name; needed where there is none (python -c, a notebook) or "
        "that of what starts it (uvicorn, celery, pytest). from_env: TS_HOSTNAME.",
    )
    require_hostname: Annotated[bool, Use(by=OF_OUR_NODE)] = Field(
        default=False,
        description="Whether another name than `hostname`, such as name-1, is an error. A machine "
        "that was new then logs out, and state_dir is as it was before.",
    )
    auth_key: Annotated[SecretStr | None, Use(late=("TS_AUTH_KEY", "TS_AUTHKEY"))] = Field(
        default=None,
        description="The key to join with, or file:PATH for one that a file has. None: TS_AUTHKEY, "
        "then the file that TS_AUTHKEY_FILE names, then auth_key_file.",
    )
    auth_key_file: Annotated[File | None, Use(late=("TS_AUTHKEY_FILE",), native="")] = Field(
        default=None, description="A file whose first line is the key. Read when joining."
    )
    client_secret: SecretStr | None = Field(
        default=None,
        description="An OAuth client secret, or file:PATH, to make a key with where the node needs "
        "one; needs tags. None: TS_CLIENT_SECRET.",
    )
    preauthorized: Annotated[bool, Use(native="")] = Field(
        default=False,
        description="Whether nodes that join by an OAuth client secret need no admin's approval.",
    )
    tags: Annotated[Names, Use(variable="TS_TAGS", by=OF_OUR_NODE)] = Field(
        default=(), description='Tags to ask for, "tag:name". from_env: TS_TAGS.'
    )
    control_url: Annotated[str | None, Use(late=("TS_CONTROL_URL",))] = Field(
        default=None,
        description="The control server, http(s)://host. None: TS_CONTROL_URL, then Tailscale's.",
    )
    state_dir: Annotated[File | None, Use(variable="TS_STATE_DIR", by=OF_OUR_NODE)] = Field(
        default=None,
        description="Where the node's identity is kept; made with mode 0700, and locked while in "
        "use. None: $XDG_STATE_HOME/tailnet/<hostname>-<hash of control_url>; an ephemeral node "
        "then keeps it in memory. from_env: TS_STATE_DIR.",
    )
    trust_state_dir: Annotated[bool, Use(by=OF_OUR_NODE)] = Field(
        default=False,
        description="Whether to use a state_dir that other users could change: one that belongs to "
        "another user than root and this one, or that others may write to.",
    )
    ephemeral: Annotated[bool, Use(variable="TS_EPHEMERAL", by=OF_OUR_NODE)] = Field(
        default=False, description="Whether control forgets the node once it is gone."
    )
    port: Annotated[int, Use(by=OF_OUR_NODE)] = Field(
        default=0,
        ge=0,
        le=65535,
        description="UDP port for peers. 0 picks one; so does one that is taken, with a warning.",
    )
    backend: Literal["embedded", "tailscaled"] = Field(
        default="embedded", description="A node in this process, or a tailscaled that runs."
    )
    tailscaled_socket: Annotated[
        File | None, Use(variable="TS_SOCKET", by=frozenset({"theirs"}))
    ] = Field(
        default=None,
        description="tailscaled's socket. None: where Tailscale puts it. from_env, for "
        'backend="tailscaled": TS_SOCKET.',
    )
    tailscaled_managed: Annotated[bool, Use(by=frozenset({"managed", "theirs"}))] = Field(
        default=False,
        description="Whether to run tailscaled as a child, in userspace mode: with a socket of its "
        "own, on state_dir, until the node is closed or this process ends.",
    )
    tailscaled_path: Annotated[File | None, Use(by=frozenset({"managed"}))] = Field(
        default=None,
        description="The tailscaled to run. None: from PATH, then the sbin directories.",
    )
    accept_routes: Annotated[bool, Use(by=OF_OUR_NODE)] = Field(
        default=False, description="Use the subnets that peers route."
    )
    exit_node: Annotated[str | None, Use(by=OF_OUR_NODE)] = Field(
        default=None, description="The peer, by IP or name, that takes traffic to the internet."
    )
    advertise_routes: Annotated[Names, Use(variable="TS_ROUTES", by=OF_OUR_NODE)] = Field(
        default=(), description="Subnets to offer, as CIDR."
    )
    connect_timeout: float = Field(
        default=10.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds without any news from control after which an attempt fails.",
    )
    retry: Annotated[RetryPolicy, Use(native="")] = Field(
        default_factory=RetryPolicy, description="How to try again when control is unreachable."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level that reaches logging.getLogger('tailnet')."
    )
    log_upload: Annotated[bool, Use(by=OF_OUR_NODE, native="process.log_upload")] = Field(
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
        file = file_of(path)
        fields = fields_of(file)
        try:
            return cls(**placed(fields, cls.model_fields, file.parent))
        except TailnetConfigError as e:
            problem = f"{file}: {e}"
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
            return cls._from_env(os.environ, variables(cls.model_fields, late=False), fields)
        given: Any = environ
        if not isinstance(given, Mapping):
            raise TailnetConfigError(
                f"from_env: want a mapping of variables, and not {type(given).__name__}"
            )
        return cls._from_env(environ, variables(cls.model_fields, late=True), fields)

    @classmethod
    def _from_env(
        cls, environ: Mapping[str, str], known: Mapping[str, str], fields: dict[str, Any]
    ) -> Self:
        way = way_of(
            fields.get("backend", "embedded"), managed=bool(fields.get("tailscaled_managed"))
        )
        useless = unused(cls.model_fields, way)
        found: dict[str, Any] = {
            field: environ[name]
            for name, field in known.items()
            if environ.get(name) and field not in useless
        }
        try:
            return cls(**{**found, **fields})
        except TailnetConfigError as e:
            said = str(e)
        names = [
            name
            for name, field in known.items()
            if field in found.keys() - fields and f"{field}: " in said and environ.get(name)
        ]
        raise TailnetConfigError(f"{said} (from {', '.join(names)})" if names else said)

    # --- checks -------------------------------------------------------------------------------

    @field_validator("hostname")
    @classmethod
    def _check_hostname(cls, value: str) -> str:
        refuse_key(value.lower())
        return checked_label(value)

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for tag in value:
            check_tag(tag)
            refuse_key(tag)
        return value

    @field_validator("control_url")
    @classmethod
    def _check_control_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = checked_url(value)
        refuse_key(url)
        return url

    @field_validator("advertise_routes")
    @classmethod
    def _check_routes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for route in value:
            check_route(route)
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
        refuse_key(value or "")
        return value

    @field_validator("tailscaled_socket")
    @classmethod
    def _check_socket(cls, value: Path | None) -> Path | None:
        if value is not None:
            check_socket(value)
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
            raise ValueError(f"hostname: {no_name()}")
        given = sorted(unused(type(self).model_fields, "embedded") & self._given())
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
            return checked_url(value) if value else ""
        except ValueError as e:
            problem = f"TS_CONTROL_URL: {e}"
        raise TailnetConfigError(problem)

    def resolved_socket(self) -> str:
        """Return the path of the daemon's socket; "" is where Tailscale puts it."""
        if self.tailscaled_socket is None or not self._daemon_is_theirs():
            return ""
        require_socket(self.tailscaled_socket)
        return str(self.tailscaled_socket)

    def resolved_state_dir(self, environ: Mapping[str, str]) -> str:
        """Return the state directory; "" keeps the state in memory."""
        if self.state_dir is not None:
            return str(self.state_dir.absolute())
        if self.ephemeral:
            return ""
        control = self.resolved_control_url(environ)
        return default_state_dir(self.hostname, control, environ)

    def _writable_state_dir(self, environ: Mapping[str, str]) -> str:
        """Return the state directory, where the default is one that this user can have."""
        path = self.resolved_state_dir(environ)
        if self.state_dir is None and not self.ephemeral:
            require_writable(path)
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
        values: dict[str, Any] = {
            **{name: getattr(self, name) for name in type(self).model_fields},
            "hostname": self.hostname or self.called(),
            "auth_key": self.resolved_auth_key(environ),
            "client_secret": secret,
            "control_url": self.resolved_control_url(environ),
            "state_dir": "" if self._daemon_is_theirs() else self._writable_state_dir(environ),
            "tailscaled_socket": self.resolved_socket(),
            "tailscaled_path": self._resolved_tailscaled(environ),
        }
        document: dict[str, Any] = native(type(self).model_fields, values)
        document["process"]["env"] = shared(environ, variables(type(self).model_fields, late=True))
        for name in ("state_dir", "tailscaled_socket", "tailscaled_path"):  # absolute only by now
            if not is_text(document[name]):
                raise TailnetConfigError(f"{name}: {document[name]} {NOT_TEXT}")
        return document

    def _resolved_tailscaled(self, environ: Mapping[str, str]) -> str:
        """Return the daemon to run; "" where none is needed, or there is none."""
        if self.tailscaled_path is not None:
            return str(self.tailscaled_path.absolute())
        return find_tailscaled(environ) if self.tailscaled_managed else ""

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
        way = way_of(self.backend, managed=self.tailscaled_managed)
        names, why = unused(type(self).model_fields, way), WHY_UNUSED[way]
        given = sorted(names & self._given())
        return f"{', '.join(given)} ({why})" if given else ""


def _documented(cls: type[TailnetConfig]) -> str:
    """Return the class's docstring with its fields, for help()."""
    fields = "\n".join(f"        {name}: {f.description}" for name, f in cls.model_fields.items())
    return f"{cls.__doc__}\n    Args:\n{fields}\n"


TailnetConfig.__doc__ = _documented(TailnetConfig)
