"""Terminal output: colour, paths, warnings on stderr, and a bar for transfers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from runwire_query.errors import printable

__all__ = ["damage_lines", "has_colour", "path_line", "transfer_bar"]

_TITLE_CHARS_MAX: Final = 60


def has_colour() -> bool:
    """Return whether stdout is a terminal, and neither NO_COLOR (no-color.org) nor TERM=dumb."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()


def path_line(path: Path) -> str:
    """Return a path unchanged for scripts, escaped for a terminal."""
    return printable(str(path)) if sys.stdout.isatty() else str(path)


def damage_lines(damaged: Mapping[str, str]) -> list[str]:
    """Return one line for each damaged manifest that a list leaves out, by key."""
    return [
        printable(f"left out: {reason if key in reason else f'{key}: {reason}'}")
        for key, reason in sorted(damaged.items())
    ]


@contextmanager
def transfer_bar(title: str, total_bytes: int) -> Iterator[Callable[[int], None] | None]:
    """Yield the function that counts moved bytes; None without a terminal or without `rich`."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ImportError:  # of the extra `query`
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(printable(title[:_TITLE_CHARS_MAX])), total=total_bytes)
        yield lambda count: bar.advance(task, count)
