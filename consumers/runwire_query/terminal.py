"""Whether stdout wants colour."""

from __future__ import annotations

import os
import sys


def has_colour() -> bool:
    """Only on a terminal, and not when NO_COLOR (no-color.org) or TERM=dumb asks for none."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()
