"""`python -m tailnet.cli` is the command `tailnet`."""

from __future__ import annotations

import sys

from . import main

sys.exit(main())
