"""The command `tailnet`: `demo` shows the library at work, `version` says what it is made of.

Only argparse: the command needs no more than the library does. Read next: demo.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from .. import TailnetError, __version__

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the arguments without the program's name; None takes them from the command line.
    """
    parser = argparse.ArgumentParser(prog="tailnet", description="Put a program on a tailnet.")
    parser.add_argument("--version", action="version", version=f"tailnet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="two nodes on an offline tailnet: one serves, the other calls it by name",
        description="Start an offline tailnet with a service and a caller. Needs no account.",
    )
    demo.add_argument(
        "--real",
        action="store_true",
        help="join the tailnet of TS_AUTHKEY instead (a reusable key)",
    )
    demo.add_argument("--caller", metavar="JSON", help=argparse.SUPPRESS)  # the second process
    commands.add_parser(
        "version", help="print the versions of tailnet, tailscale.com and Go, and check the wheel"
    )
    args = parser.parse_args(argv)
    try:
        if args.command == "version":
            from . import version

            return version.run()
        from . import demo as demo_module

        if args.caller is not None:
            return demo_module.call(json.loads(args.caller))
        return demo_module.run(real=args.real)
    except TailnetError as e:
        print(f"tailnet: {type(e).__name__}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
