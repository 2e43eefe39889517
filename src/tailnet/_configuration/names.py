"""What a node is called by default, and what names, tags and routes must look like.

The default is the program's own name, and none where that is the name of what starts programs of
every kind.
"""

from __future__ import annotations

import ipaddress
import re
import sys
import unicodedata
from pathlib import Path

_TAG = re.compile(r"tag:[a-zA-Z][a-zA-Z0-9-]*")
_ROUTE = re.compile(r"[0-9a-f:.]+/(0|[1-9]\d*)", re.IGNORECASE | re.ASCII)
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)

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
    return nearest_label(name.replace(".", "-"))


def program_name() -> str:
    """Return this program's own name, or ""; tsnet's default would be the interpreter's."""
    name = _program()
    return "" if _LAUNCHERS.fullmatch(name) else name


def no_name() -> str:
    """Say why there is no default for the hostname, and what to do."""
    why = "this program has no name that a host could have"
    if launcher := _program():
        why = f"this program was started by {launcher}, which starts others too"
    return f'{why}; give hostname="...", or set TS_HOSTNAME and use TailnetConfig.from_env()'


def nearest_label(text: str) -> str:
    """Return the host name that a text comes closest to, or ""."""
    ascii_ = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    first = next(filter(None, ascii_.strip().split(".")), "")
    return re.sub(r"[^a-z0-9]+", "-", first).strip("-")[:63].strip("-")


def checked_label(value: str) -> str:
    """Return a host name in lower case; raise ValueError for what is none."""
    if not LABEL.fullmatch(value):
        near = nearest_label(value)
        raise ValueError(
            "must be a DNS label (letters, digits and inner hyphens, at most 63), unlike"
            f" {value!r}" + (f"; {near!r} is one" if near else "")
        )
    return value.lower()


def check_tag(value: str) -> None:
    """Raise ValueError for what is no tag."""
    if not _TAG.fullmatch(value):
        raise ValueError('each must look like "tag:name"')


def check_route(value: str) -> None:
    """Raise ValueError for what is no subnet."""
    problem = "each must be a subnet such as 10.1.0.0/16, without host bits"
    if not _ROUTE.fullmatch(value):
        raise ValueError(problem)
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(problem) from None
