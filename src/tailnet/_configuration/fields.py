"""How the fields of TailnetConfig are used: their variables, backends and native names.

Each field has that beside its type, as `Annotated[type, Use(...)]`; everything here is derived.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from pydantic.fields import FieldInfo

# A node in this process; a tailscaled that the library runs; one that runs already.
Way = Literal["embedded", "managed", "theirs"]

OF_OUR_NODE: frozenset[Way] = frozenset({"embedded", "managed"})  # else the daemon decides

WHY_UNUSED: dict[Way, str] = {
    "embedded": 'for backend="tailscaled"',
    "managed": "a managed tailscaled has a private one",
    "theirs": "a tailscaled that runs has settings of its own: `tailscale set` changes them, and"
    " tailscaled_managed=True runs one for this program",
}


def way_of(backend: str, *, managed: bool) -> Way:
    """Return which backend a configuration has."""
    if backend != "tailscaled":
        return "embedded"
    return "managed" if managed else "theirs"


@dataclass(frozen=True)
class Use:
    """How a field is used.

    Attributes:
        variable: What from_env() reads it from; Tailscale's container image has the name, if any.
        late: Variables that are read when the node joins, the last of them first; from_env() reads
            them only from an environment that it is given.
        by: The backends that use it.
        native: Its name in the document of tailnet_node_new, with a dot for one in an object; None
            is the field's own, and "" is none.
    """

    variable: str = ""
    late: tuple[str, ...] = ()
    by: frozenset[Way] = frozenset({"embedded", "managed", "theirs"})
    native: str | None = None


def use_of(field: FieldInfo) -> Use:
    """Return how a field is used."""
    return next((each for each in field.metadata if isinstance(each, Use)), Use())


def variables(fields: Mapping[str, FieldInfo], *, late: bool) -> dict[str, str]:
    """Return the fields by the variables that they are read from; of two, the later one wins.

    With `late`, also by those that are read when the node joins.
    """
    found: dict[str, str] = {}
    for name, field in fields.items():
        use = use_of(field)
        names = (use.variable, *use.late) if late else (use.variable,)
        found.update(dict.fromkeys(filter(None, names), name))
    return found


def of_type(fields: Mapping[str, FieldInfo], kind: type) -> list[str]:
    """Return the fields that hold a value of a class, or None."""
    return [name for name, field in fields.items() if kind in _types(field.annotation)]


def _types(annotation: object) -> Iterator[object]:
    yield annotation
    for inner in get_args(annotation):
        yield from _types(inner)


def unused(fields: Mapping[str, FieldInfo], way: Way) -> set[str]:
    """Return the fields that a backend does not use."""
    return {name for name, field in fields.items() if way not in use_of(field).by}


def native(fields: Mapping[str, FieldInfo], values: Mapping[str, object]) -> dict[str, object]:
    """Return the document of tailnet_node_new for the values of the fields."""
    document: dict[str, object] = {}
    for name, field in fields.items():
        spelling = use_of(field).native
        path = (name if spelling is None else spelling).split(".")
        value = values[name]
        at = document
        for part in path[:-1]:
            at = cast("dict[str, object]", at.setdefault(part, {}))
        if path[-1]:
            if isinstance(value, tuple):
                value = list(cast("tuple[object, ...]", value))
            at[path[-1]] = "" if value is None else value
    return document
