"""Whatever goes in, a right value or this library's own error comes out, and no key with it."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from tailnet import AsyncTailnet, RetryPolicy, Tailnet, TailnetConfig, TailnetConfigError
from tailnet._engine.ops import deadline_of
from tailnet._node.address import address_text, target_text
from tailnet._sockets.connection import parse_peer_name
from tailnet._text import printable

# The same cases at every run, and so many of them that all tests here take seconds.
budget = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

MARK = "kM4rKkM4rK"
KEY = "tskey-auth-" + MARK

keys = st.sampled_from(
    [KEY, f" {KEY}\n", f"{KEY}\0", f"{KEY} x", f"{KEY}\ud800", f"/run/{KEY}", f"http://u:{KEY}@h/"]
)
text = st.text(max_size=12) | st.sampled_from(["", "a", "~", "~nobody/x", "\ud800", "a\udcff", "1"])
plain: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | text
    | keys
)
values: st.SearchStrategy[Any] = st.recursive(
    plain
    | st.binary(max_size=8)
    | st.sampled_from([KEY.encode(), SecretStr(KEY), Path(KEY), RetryPolicy(), object()]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(text | keys, inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=6,
)
# Names that functions on the way have themselves; not those that one of the ways takes by name.
ODD = ["self", "cls", "fields", "config", "path", "update", "nothing", "obj", "values", KEY, ""]
names = st.sampled_from([*TailnetConfig.model_fields, *ODD]) | text
fields = st.dictionaries(names, values, max_size=4).map(lambda f: {"auth_key": KEY, **f})

T = TypeVar("T")
Way = Callable[[dict[str, Any], Path], object]


def encoded(text: str) -> bytes:
    """Return the bytes of what may be no text at all."""
    return text.encode("utf-8", "surrogatepass")


def written(path: Path, content: str) -> Path:
    """Write a file of that."""
    path.write_bytes(encoded(content))
    return path


def dumped(value: object) -> str:
    """Return JSON, with what it cannot say as text."""
    return json.dumps(value, default=str)


def toml(f: dict[str, Any]) -> str:
    """Return a section of TOML, if an odd one: it writes a name and many values as JSON does."""
    return "[tailnet]\n" + "".join(f"{json.dumps(k)} = {dumped(v)}\n" for k, v in f.items())


WAYS: dict[str, Way] = {
    "init": lambda f, _: TailnetConfig(**f),
    "tailnet": lambda f, _: Tailnet(**f).config,
    "async": lambda f, _: AsyncTailnet(TailnetConfig(), **f).config,
    "model_validate": lambda f, _: TailnetConfig.model_validate(f),
    "model_validate_json": lambda f, _: TailnetConfig.model_validate_json(dumped(f)),
    "model_validate_strings": lambda f, _: TailnetConfig.model_validate_strings(f),
    "model_construct": lambda f, _: TailnetConfig.model_construct(**f),
    "model_copy": lambda f, _: TailnetConfig(hostname="a").model_copy(update=f),
    "json": lambda f, d: TailnetConfig.from_file(written(d / "c.json", dumped({"tailnet": f}))),
    "toml": lambda f, d: TailnetConfig.from_file(written(d / "c.toml", toml(f))),
    "from_env": lambda f, _: TailnetConfig.from_env({"TS_AUTHKEY": KEY}, **f),
    "retry": lambda f, _: RetryPolicy(**f),
}


def told(error: BaseException) -> str:
    """Return all that is told of an error: what is printed, pickled, and in variables of frames."""
    frames = [
        frame.f_locals
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename != __file__
    ]
    assert error.__cause__ is None
    assert error.__context__ is None
    parts = [str(error), repr(error), repr(error.args), repr(vars(error)), repr(frames)]
    parts += [repr(pickle.dumps(error)), "".join(traceback.format_exception_only(error))]
    return "".join(parts)


def shown(config: object) -> str:
    """Return all that is printed of a configuration."""
    dump: Any = getattr(config, "model_dump", dict)()
    return f"{config!r} {config} {dump}"


def attempt(call: Callable[[], T], errors: list[TailnetConfigError]) -> T | None:
    """Return what a call returns; its TailnetConfigError is told in printable words."""
    try:
        return call()
    except TailnetConfigError as e:
        error = e
    assert str(error).isprintable()
    assert len(str(error)) < 3000
    errors.append(error)
    return None


def tells_no_key(call: Callable[[], T]) -> T | None:
    """As attempt; neither what is printed of a configuration nor its error tells a key."""
    errors: list[TailnetConfigError] = []
    result = attempt(call, errors)
    assert MARK not in "".join([shown(result), *map(told, errors)])
    return result


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@budget
@given(f=fields)
def test_every_way_into_the_configuration(way: Way, f: dict[str, Any], tmp_path: Path) -> None:
    """Every name and value gives a configuration or a TailnetConfigError, and neither a key."""
    config = tells_no_key(lambda: way(f, tmp_path))
    if isinstance(config, TailnetConfig):
        check_document(config)


def check_document(config: TailnetConfig) -> None:
    """What joins is what was configured, in copies and pickles too, and a path stays itself."""
    for same in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert same == config
    documents: list[dict[str, Any]] = []
    tells_no_key(lambda: documents.append(config.to_native({"HOME": "/nonexistent"})))
    for document in documents:
        assert json.loads(json.dumps(document).encode("utf-8")) == document
        if config.state_dir is not None and document["state_dir"]:
            assert document["state_dir"] == str(config.state_dir.absolute())


VARIABLES = """
TS_HOSTNAME TS_STATE_DIR TS_ROUTES TS_SOCKET TS_TAGS TS_EPHEMERAL TS_AUTHKEY TS_AUTH_KEY
TS_CONTROL_URL TS_CLIENT_SECRET TS_X HOME XDG_STATE_HOME HTTPS_PROXY
"""
variables = st.dictionaries(
    st.sampled_from(VARIABLES.split()), text | keys | st.integers(), max_size=5
)


@budget
@given(environ=variables, backend=st.sampled_from(["embedded", "tailscaled"]))
def test_every_environment(environ: dict[str, Any], backend: Any) -> None:
    """Every environment gives a document or a TailnetConfigError, and neither shows a key."""
    tells_no_key(lambda: TailnetConfig.from_env(environ, backend=backend))
    tells_no_key(
        lambda: bool(TailnetConfig(hostname="n", backend=backend, tags="tag:a").to_native(environ))
    )


@budget
@given(content=st.binary(max_size=60) | keys, name=st.sampled_from(["c.toml", "c.json"]))
def test_every_file(content: bytes | str, name: str, tmp_path: Path) -> None:
    """A file of any bytes as a configuration, or a key, is at worst a TailnetConfigError."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else encoded(content))
    tells_no_key(lambda: TailnetConfig.from_file(path))
    tells_no_key(lambda: bool(TailnetConfig(hostname="n", auth_key_file=path).to_native({})))


wrong: Any = TailnetConfig  # for calls that checkers refuse


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: wrong.from_file(None), "from_file: want the path of a file.*NoneType"),
        (lambda: wrong.from_file(3), "from_file: want the path of a file.*int"),
        (lambda: wrong.from_file("a\0b"), "embedded null"),
        (lambda: wrong.from_file("\ud800"), "cannot read"),
        (lambda: wrong(state_dir="/s\udcff"), "^state_dir: is not text in UTF-8"),
        (lambda: wrong(hostname="n").to_native({"HOME": "/s\udcfe"}), "state_dir.* not text in"),
        (lambda: wrong.from_env("x"), "from_env: want a mapping of variables.*str"),
        (lambda: wrong(self=1), "^self: unknown setting"),
        (lambda: wrong(**{KEY: 1}), r"^\[secret\]: unknown setting"),
        (lambda: wrong(retry={KEY: 1}), r"^retry: \[secret\]: unknown setting"),
        (lambda: wrong(**{"a\x1b[2J\r\nb": 1}), r"^a\\x1b\[2J\\r\\nb: unknown setting"),
    ],
)
def test_what_is_no_argument(call: Callable[[], object], says: str) -> None:
    """An argument of a type or a name that cannot be is said in a sentence, without a key."""
    with pytest.raises(TailnetConfigError, match=says) as caught:
        call()
    assert MARK not in told(caught.value)


def test_a_number_that_python_does_not_write() -> None:
    """One of more than 4,300 digits is no port and no time; it is quoted by its type."""
    with pytest.raises(TailnetConfigError, match="address a tuple: want"):
        address_text(("a", 10**5000))
    with pytest.raises(TailnetConfigError, match=r"timeout: want .* and not a int"):
        deadline_of(-(10**5000))


def test_a_file_with_a_field_self_and_a_key(tmp_path: Path) -> None:
    """Names that a function has itself are refused like any other, with no key in a frame."""
    path = tmp_path / "c.toml"
    path.write_text(f'[tailnet]\nself = 1\nauth_key = "{KEY}"\n', "utf-8")
    with pytest.raises(TailnetConfigError, match="self: unknown setting") as caught:
        TailnetConfig.from_file(path)
    assert MARK not in told(caught.value)


def test_a_key_file_whose_name_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unpaired surrogate in a path is refused, with the variables read by then in no frame."""
    monkeypatch.setenv("TS_CLIENT_SECRET", KEY)
    with pytest.raises(TailnetConfigError, match="auth_key_file: is not text in UTF-8") as caught:
        Tailnet(hostname="n", tags="tag:a", auth_key_file="/run/\ud800").up()
    assert MARK not in told(caught.value)


def test_an_interrupt_leaves_no_key_in_frames() -> None:
    """Ctrl-C while keys are read is reported with no frame that holds one."""

    class Environ(dict[str, str]):
        def get(self, *_: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        TailnetConfig.from_env(Environ(TS_AUTHKEY=KEY))
    assert MARK not in told(caught.value)


# --- addresses, times, names, text ---

hosts = text | keys | st.just(IPv4Address("100.64.0.1"))
addresses: st.SearchStrategy[Any] = (
    text
    | values
    | st.tuples(hosts, st.integers() | st.just(10**400))
    | st.tuples(hosts, st.integers(), st.integers())
    | st.builds(lambda h, p: f"{h}:{p}", text, text)
)


@pytest.mark.parametrize("read", [address_text, target_text])
@budget
@given(address=addresses)
def test_every_address(read: Callable[[Any], str], address: object) -> None:
    """An address of any form is read as text, or is a TailnetConfigError in printable words."""
    assert isinstance(attempt(lambda: read(address), []), str | None)


@budget
@given(name=st.binary(max_size=40) | text | values)
def test_every_name_of_a_peer(name: object) -> None:
    """The kernel's name of a socket's other end is an address or none, whoever chose it."""
    found = parse_peer_name(name)
    assert found is None or isinstance(found.address[1], int)


@budget
@given(timeout=values | st.integers(min_value=0) | st.floats(min_value=0))
def test_every_timeout(timeout: Any) -> None:
    """A timeout of any kind and size is a deadline, never, or a TailnetConfigError."""
    deadline = attempt(lambda: deadline_of(timeout), [])
    assert deadline is None or deadline < 1e11
    assert deadline_of(10**400) is None


@budget
@given(text=st.text(max_size=4000))
def test_printable(text: str) -> None:
    """What is printable says itself, what is not is escaped, and doing it twice changes nothing."""
    once = printable(text)
    assert once.isprintable()
    assert len(once) <= 2500
    assert printable(once) == once
    if text.isprintable() and len(text) <= 2500:
        assert once == text
