"""What stdout wants: colour, and names as they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runwire_query.text.words import printable


def has_colour() -> bool:
    """Only on a terminal, and not when NO_COLOR (no-color.org) or TERM=dumb asks for none."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()


def path_line(path: Path) -> str:
    """A path to the letter for scripts; a terminal gets nothing that could move its cursor."""
    return printable(str(path)) if sys.stdout.isatty() else str(path)
