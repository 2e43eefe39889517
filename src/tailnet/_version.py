"""The version: of the distribution, of the package and of the Go library inside it.

This is the only place that states it. pyproject.toml and build_go.py read this file as text (so
it holds one plain assignment), and _engine/lib.py compares it with what the library says of itself.
"""

__version__ = "0.1.0"
