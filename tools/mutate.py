"""Change the code in one small place at a time, and see whether a test notices.

    python tools/mutate.py --seed 1 --size 40           a sample of the whole tree
    python tools/mutate.py --since v0.1.0 --size 20     of the lines changed since then
    python tools/mutate.py --match _engine/ops.py     of the mutants whose name contains that

Rules of this file:

- It works on the tree it lies in, in .venv, and puts every file back. It refuses a tree with
  uncommitted changes: a killed run must not cost work. Use a clone with its own .venv.
- A mutant is known by its file, its line's text and its change, and the seed orders those by a
  hash. So the same seed picks the same mutants in a tree that has grown.
- Of numbers, 0 to 2 change: a larger one is a size or a time limit, which no test should fix.
- For each mutant, only the tests that concern its module run (TESTS), until the first failure.
- One that does not compile is no mutant. One that is not noticed is a hole in the tests, or is
  equivalent: no test could tell it from the code. A person decides which.

Both languages have the same kinds of change: a comparison, a condition, a number, a truth value,
and a statement that is left out.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fnmatch
import hashlib
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
GIT = ("git", "-C", str(ROOT))
LIMIT = 900  # seconds for the tests of one mutant; the longest list takes a tenth of that

# The tests that concern a module, the quickest first. The first pattern that fits decides.
TESTS = {
    "src/pytest_tailnet.py": "plugin",
    "src/tailnet/testing/_leaks.py": "plugin",
    "src/tailnet/testing/service.py": "plugin testing",
    "src/tailnet/testing/*": "testing plugin",
    "src/tailnet/cli/*": "demo",
    "src/tailnet/config.py": "config models",
    "src/tailnet/_configuration/settings.py": "config",
    "src/tailnet/errors.py": "errors",
    "src/tailnet/retry.py": "retry config",
    "src/tailnet/models/*": "models telling",
    "src/tailnet/_engine/wait.py": "wait ops telling trio",
    "src/tailnet/_engine/ops.py": "ops wait retry telling",
    "src/tailnet/_engine/fd.py": "ops contract processes",
    "src/tailnet/_engine/lib.py": "exports errors contract telling processes",
    "src/tailnet/_engine/logs.py": "telling",
    "src/tailnet/_engine/scratch.py": "listener processes",
    "src/tailnet/_sockets/connection.py": "socket listener compat",
    "src/tailnet/_sockets/listener.py": "listener endings compat",
    "src/tailnet/_node/address.py": "messages text_of_others",
    "src/tailnet/_node/asking.py": "operations telling models",
    "src/tailnet/_node/dialing.py": "socket messages error_table",
    "src/tailnet/_configuration/files.py": "special_files",
    "src/tailnet/_configuration/keys.py": "config joining client_secret",
    "src/tailnet/_configuration/names.py": "names config",
    "src/tailnet/_configuration/*": "config names fuzz",
    "src/tailnet/_engine/held.py": "leaks plugin",
    "src/tailnet/_engine/versions.py": "exports errors",
    "src/tailnet/_sockets/handover.py": "handover",
    "src/tailnet/_engine/limits.py": "confined",
    "src/tailnet/_engine/signals.py": "signals",
    "src/tailnet/_text.py": "text_of_others",
    "src/tailnet/_node/node.py": "retry telling endings socket joining processes",
    "src/tailnet/*": "retry telling joining endings socket",
    "go/internal/bridge/*": "socket listener endings",
    "go/internal/proxied/*": "sidecar_trust",
    "go/internal/testcontrol/*": "testing retry telling joining",
    "go/internal/fault/*": "errors socket",
    "go/internal/config/address*": "messages names",
    "go/internal/config/*": "config joining",
    "go/internal/logs/*": "telling log_lines text_of_others",
    "go/internal/strict/*": "contract",
    "go/internal/embedded/exit*": "processes signals",
    "go/internal/embedded/expiry*": "coming_back",
    "go/internal/session/extension*": "coming_back",
    "go/internal/session/tags*": "coming_back",
    "go/internal/session/removed*": "removed",
    "go/internal/session/cl*": "error_table joining sidecar_hangs",
    "go/internal/session/*": "telling operations joining sidecar_lifecycle",
    "go/internal/sidecar/expiry*": "coming_back",
    "go/internal/sidecar/hearing*": "removed",
    "go/internal/session/naming*": "names",
    "go/internal/node/operations*": "operations",
    "go/internal/session/ping*": "operations path",
    "go/internal/state/tags*": "coming_back",
    "go/internal/state/trace*": "names giving_up",
    "go/internal/state/keys*": "giving_up coming_back state_dir",
    "go/internal/state/*": "state_dir",
    "go/internal/embedded/taildrop*": "taildrop",
    "go/internal/sidecar/child*": "managed_ends managed",
    "go/internal/sidecar/serve*": "sidecar_ports sidecar_trust sidecar_lifecycle",
    "go/internal/sidecar/sidecar*": "sidecar_joining sidecar_ports sidecar_lifecycle",
    "go/internal/sidecar/joining*": "sidecar_joining managed",
    "go/internal/session/session*": "sidecar_lifecycle sidecar_joining sidecar_hangs",
    "go/internal/sidecar/[dl]*": "sidecar_ports sidecar_lifecycle sidecar_programs",
    "go/internal/sidecar/daemon*": "sidecar_hangs sidecar_lifecycle managed_ends",
    "go/internal/session/capture*": "conformance",
    "go/internal/session/[wb]*": "telling joining",
    "go/internal/embedded/[df]*": "socket listener endings",
    "go/internal/embedded/listen*": "listener endings",
    "go/internal/embedded/*": "joining coming_back giving_up endings",
    "go/internal/node/*": "retry telling joining endings",
    "go/operations.go": "operations contract",
    "go/*": "exports contract socket listener",
}


class Mutant(NamedTuple):
    """One change: `new` in the place of the bytes from `start` to `end` of a file."""

    file: str
    line: int
    start: int
    end: int
    new: str
    name: str  # what it is known by

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}"


def mutants() -> Iterator[Mutant]:
    """Yield every mutant of the tree."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        yield from _named(path, path.read_bytes(), _python(path.read_bytes()))
    for path in sorted((ROOT / "go").rglob("*.go")):
        if not re.search(r"_test\.go|_darwin\.go|_other\.go|/bench/|doc\.go", str(path)):
            yield from _named(path, path.read_bytes(), _go(path.read_bytes()))


def _named(path: Path, source: bytes, changes: Iterator[tuple[int, int, str]]) -> Iterator[Mutant]:
    seen: Counter[str] = Counter()
    for start, end, new in sorted(changes):
        line = source.count(b"\n", 0, start) + 1
        text = source.splitlines()[line - 1].decode().strip()
        old = " ".join(source[start:end].decode().split())
        name = f"{text}  [{old} -> {new or 'nothing'}]"
        seen[name] += 1
        if seen[name] > 1:
            name += f" #{seen[name]}"
        yield Mutant(str(path.relative_to(ROOT)), line, start, end, new, name)


# --- Python ----------------------------------------------------------------------------------

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
}


def _python(source: bytes) -> Iterator[tuple[int, int, str]]:
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def span(node: Any) -> tuple[int, int]:
        start = lines[node.lineno - 1] + node.col_offset
        return start, lines[node.end_lineno - 1] + node.end_col_offset

    for node in _code(ast.parse(source)):
        for new in _changes(node):
            yield *span(node), new
        test = getattr(node, "test", None)
        if isinstance(test, (ast.Name, ast.Attribute, ast.Call)):  # an operator changes by itself
            yield *span(test), f"(not {ast.unparse(test)})"


def _code(node: ast.AST) -> Iterator[Any]:
    """Yield what runs: no annotations, and nothing that only a type checker reads."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if hasattr(node, "lineno"):
        yield node
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns", "type_params"):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST) and not isinstance(node, ast.JoinedStr):
                    yield from _code(each)


def _changes(node: Any) -> Iterator[str]:
    match node:
        case ast.Compare(ops=[op]) | ast.BoolOp(op=op) | ast.BinOp(op=op) if type(op) in _SWAPS:
            swapped: Any = _SWAPS[type(op)]()
            fields = dict(ast.iter_fields(node))
            fields.update({"ops": [swapped]} if "ops" in fields else {"op": swapped})
            yield f"({ast.unparse(type(node)(**fields))})"
        case ast.UnaryOp(op=ast.Not()):
            yield f"({ast.unparse(node.operand)})"
        case ast.Constant(value=bool()):
            yield str(not node.value)
        case ast.Constant(value=0 | 1 | 2 as number):
            yield str(number + 1)
        case ast.Expr(value=ast.Call()) | ast.Raise():
            yield "pass"
        case ast.Assign() if not any(isinstance(t, (ast.Name, ast.Tuple)) for t in node.targets):
            yield "pass"
        case ast.Return(value=ast.expr()) if ast.unparse(node) != "return None":
            yield "return None"


# --- Go --------------------------------------------------------------------------------------

_NO_CODE = re.compile(
    r"//[^\n]*|/\*.*?\*/|`[^`]*`|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+'", re.DOTALL
)

_GO = {
    r"==": "!=",
    r"!=": "==",
    r"&&": "||",
    r"\|\|": "&&",
    r"<=": "<",
    r">=": ">",
    r"(?<= )<(?= )": "<=",
    r"(?<= )>(?= )": ">=",
    r"(?<= )\+(?= )": "-",
    r"!(?=[\w(])": "",
    r"\btrue\b": "false",
    r"\bfalse\b": "true",
    r"\bcontinue\b": "break",
    r"(?<![\w.\]])[012](?![\w.\]])": "",  # one more
    r"(?m)(?<=^)[ \t]*(?:defer |go )?[\w.]+\([^\n]*\)$": "",  # a statement that is a call
    r"(?m)(?<=^)[ \t]*\w+(?:\.\w+)+ = [^\n{]*$": "",  # or sets a field
    r"(?m)(?<=\bif )[^\n;=!<>&|]+(?= \{$)": "!",  # a condition that is a call or a variable
}


def _go(source: bytes) -> Iterator[tuple[int, int, str]]:
    text = source.decode("latin-1")  # a byte is a character
    code = _NO_CODE.sub(lambda m: re.sub(r"[^\n]", " " if m[0][0] == "/" else "_", m[0]), text)
    for pattern, new in _GO.items():
        for found in re.finditer(pattern, code):
            old = found[0]
            if old.strip().isdigit():
                yield found.start(), found.end(), str(int(old) + 1)
            elif new == "!" and not old.startswith("!"):
                yield found.start(), found.end(), f"!({text[found.start() : found.end()]})"
            elif new != "!" and old.count("(") == old.count(")"):
                skip = len(old) - len(old.lstrip())
                yield found.start() + skip, found.end(), new


# --- running ---------------------------------------------------------------------------------


def tests(file: str) -> list[str]:
    """Return the test modules that concern a file."""
    names = next(names for pattern, names in TESTS.items() if fnmatch.fnmatch(file, pattern))
    modules = [f"tests/test_{name}.py" for name in names.split()]
    return [module for module in modules if (ROOT / module).exists()]


def judge(mutant: Mutant) -> str:
    """Make the change, run the tests and put the file back; return what became of it."""
    path = ROOT / mutant.file
    source = path.read_bytes()
    try:
        path.write_bytes(
            source[: mutant.start]
            + mutant.new.encode("latin-1" if path.suffix == ".go" else "utf-8")
            + source[mutant.end :]
        )
        if path.suffix == ".go":
            if run(PYTHON, "build_go.py") != 0:
                return "does not compile"
            package = path.parent.relative_to(ROOT / "go")
            if list(path.parent.glob("*_test.go")) and (
                code := run(
                    PYTHON, "build_go.py", "--exec", "go", "test", "-timeout=60s", f"./{package}"
                )
            ):
                return "noticed" if code > 0 else "hangs"
        code = run(
            PYTHON, "-m", "pytest", "-xqq", "-p", "no:randomly", "--timeout=60", *tests(mutant.file)
        )
        return "hangs" if code < 0 else "noticed" if code else "NOT NOTICED"
    finally:
        path.write_bytes(source)
        if path.suffix == ".go":
            run(PYTHON, "build_go.py")


def run(*command: object) -> int:
    """Run a command and return its exit code; one that takes too long is killed (-9)."""
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        return -9
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def changed(since: str) -> set[tuple[str, int]]:
    """Return the lines that are new or other than in a revision."""
    diff = subprocess.check_output([*GIT, "diff", "-U0", since], text=True)
    found = set()
    file = ""
    for line in diff.splitlines():
        if line.startswith("+++ "):
            file = line[6:]
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first, count = int(hunk[1]), int(hunk[2] or 1)
            found |= {(file, n) for n in range(first, first + count)}
    return found


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", default="1", help="which mutants come first")
    parser.add_argument("--size", type=int, default=20, help="how many are tried")
    parser.add_argument("--since", help="only lines changed since this revision")
    parser.add_argument("--match", default="", help="only mutants whose name contains this")
    parser.add_argument("--list", action="store_true", help="only show the sample")
    options = parser.parse_args()
    if subprocess.check_output([*GIT, "status", "--porcelain", "-uno"]):
        raise SystemExit("this tree has uncommitted changes: commit them, or use a clone")

    def order(mutant: Mutant) -> bytes:
        return hashlib.sha256(f"{options.seed} {mutant.file} {mutant.name}".encode()).digest()

    lines = changed(options.since) if options.since else None
    every = [m for m in mutants() if lines is None or (m.file, m.line) in lines]
    sample = sorted((m for m in every if options.match in str(m)), key=order)
    print(f"{len(sample)} of {len(every)} mutants, seed {options.seed}", flush=True)
    outcomes: Counter[str] = Counter()
    for mutant in sample:
        if outcomes.total() - outcomes["does not compile"] >= options.size:
            break
        if options.list:
            outcomes["listed"] += 1
            print(mutant)
            continue
        began = time.monotonic()
        outcome = judge(mutant)
        outcomes[outcome] += 1
        print(f"{outcome} ({time.monotonic() - began:.0f} s) {mutant}", flush=True)
    tried = outcomes.total() - outcomes["does not compile"]
    print(f"{outcomes['noticed'] + outcomes['hangs']} of {tried} noticed", dict(outcomes))


if __name__ == "__main__":
    main()
