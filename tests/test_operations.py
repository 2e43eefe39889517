"""Every operation of the library's own table: what is wrong with a call, its end, and its place."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tailnet import TailnetClosed, TailnetForked, TailnetHandle, TailnetInternalError
from tailnet._engine import lib, ops
from tailnet._engine.wait import wait
from tests.support.held import nothing_left
from tests.support.waiting import WAIT

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "operations.md"

Table = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def operations(server: TailnetHandle) -> Table:
    """The table, once the library is loaded."""
    assert not server.closed
    return table()


def table() -> Table:
    """Return the library's table of operations."""
    found: Table = wait(ops.reply(lib.operations(), None, "the operations"))
    return found


def asked(node: int, name: str, text: str) -> Any:
    """Ask with arguments that may be no JSON, and return the first line of the answer."""
    fd = lib._pending(lib._call("tailnet_ask", node, name, text, -1))
    return wait(ops.reply(fd, ops.deadline_of(WAIT), name))


def test_wrong_arguments_are_refused(server: TailnetHandle, operations: Table) -> None:
    """Each operation refuses what is no JSON object, an unknown member, and a wrong type."""
    for name, about in operations.items():
        wrong = ["", "{", "[]", "null", "{} {}", '{"no such member": 1}']
        wrong += [json.dumps({member: {"a": 1}}) for member in about["args"]]
        for text in wrong:
            with pytest.raises(TailnetInternalError, match="JSON"):
                asked(server._node.handle(), name, text)


def test_an_unknown_operation_is_named(server: TailnetHandle) -> None:
    """An operation that the table does not have is an error that names it."""
    with pytest.raises(TailnetInternalError, match='no operation "no such"'):
        asked(server._node.handle(), "no such", "{}")


def test_a_descriptor_that_nobody_asked_for_is_refused(
    server: TailnetHandle, operations: Table
) -> None:
    """An operation that takes no descriptor says so, closes its copy, and leaves the caller's."""
    read, write = os.pipe()
    for name in (name for name, about in operations.items() if not about["takes"]):
        with pytest.raises(TailnetInternalError, match="takes no descriptor"):
            wait(ops.reply(lib.ask(server._node.handle(), name, {}, write), None, name))
    os.close(write)
    assert os.read(read, 1) == b""  # EOF: no copy is left
    os.close(read)


def test_a_descriptor_that_comes_along_is_given_back(
    server: TailnetHandle, operations: Table
) -> None:
    """An operation that takes one closes its copy, whatever is wrong, and names one that lacks."""
    for name in (name for name, about in operations.items() if about["takes"]):
        read, write = os.pipe()
        for handle, args in ((server._node.handle(), {"no such member": 1}), (0, {})):
            with pytest.raises((TailnetInternalError, TailnetClosed)):
                wait(ops.reply(lib.ask(handle, name, args, write), None, name))
        os.close(write)
        assert os.read(read, 1) == b""
        os.close(read)
        with pytest.raises(TailnetInternalError, match="descriptor"):
            asked(server._node.handle(), name, "{}")


def test_a_closed_node_answers_nothing(server: TailnetHandle, operations: Table) -> None:
    """Each operation on a handle that is closed, or never was one, is TailnetClosed."""
    assert not server.closed
    for name in operations:
        for handle in (0, 1 << 40):
            with pytest.raises(TailnetClosed):
                asked(handle, name, "{}")


def test_a_cancelled_operation_leaves_nothing(server: TailnetHandle, operations: Table) -> None:
    """Each operation that is given up at once gives back what it took."""
    with nothing_left():
        for name in operations:
            for _ in range(20):
                lib.ask(server._node.handle(), name, {}).cancel()


def test_a_forked_child_asks_nothing(server: TailnetHandle, operations: Table) -> None:
    """Each operation in a forked child raises TailnetForked, before it reaches the library."""
    handle = server._node.handle()
    if (child := os.fork()) == 0:
        refused = 0
        for name in operations:
            try:
                lib.ask(handle, name, {})
            except TailnetForked:
                refused += 1
        os._exit(0 if refused == len(operations) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_python_asks_what_there_is(operations: Table) -> None:
    """The package asks for each operation of the table, and for no other."""
    names = set()
    for path in (ROOT / "src" / "tailnet").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Attribute(attr="ask"),
                    args=[_, ast.Constant(value=str(name)), *_],
                ):
                    names.add(name)
                case _:
                    pass
    assert names == set(operations)


# --- the document ---


def written(text: str, operations: Table) -> str:
    """Put a section for each operation where the document has its marks."""
    lines = []
    for name, about in sorted(operations.items()):
        lines += [f"## {name}", "", f"{about['about']} A {about['kind']}.", ""]
        if about["sidecar"]:
            lines += [f"Through a `tailscaled`: {about['sidecar']}", ""]
        if about["takes"]:
            lines += [f"A descriptor goes along: {about['takes']}.", ""]
        lines += members("argument", about["args"])
        for answer in about["answers"]:
            if answer["members"] is None:
                package, _, kind = answer["type"].rpartition(".")
                url = f"https://pkg.go.dev/{package}#{kind}"
                lines += [f"It answers Tailscale's [`{kind}`]({url}).", ""]
            else:
                lines += members(
                    "event" if about["kind"] == "stream" else "answer", answer["members"]
                )
    marks = r"(<!-- operations -->\n).*?(<!-- end -->)"
    body = "\n".join(lines).rstrip() + "\n"
    return re.sub(marks, lambda m: f"{m[1]}{body}{m[2]}", text, flags=re.DOTALL)


def members(title: str, found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the table of an object's members."""
    if not found:
        return []
    rows = [f"| `{name}` | {about['type']} | {about['doc']} |" for name, about in found.items()]
    return [f"| {title} | type | what it is |", "| --- | --- | --- |", *rows, ""]


def test_the_document_has_every_operation(operations: Table) -> None:
    """docs/operations.md is what the table says; `python -m tests.test_operations` writes it."""
    text = DOCUMENT.read_text("utf-8")
    assert written(text, operations) == text
    for about in operations.values():
        for answer in [about["args"], *(a["members"] or {} for a in about["answers"])]:
            assert all(member["doc"] for member in answer.values())


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8"), table()), "utf-8")
