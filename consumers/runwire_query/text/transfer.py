"""How far a transfer is: a bar on stderr where somebody watches, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runwire_query.text.words import printable


@contextmanager
def transfer_bar(what: str, total_bytes: int) -> Iterator[Callable[[int], None] | None]:
    """Yield whom to tell of bytes that were moved; None without a terminal or without `rich`."""
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
        task = bar.add_task(escape(printable(what[:60])), total=total_bytes)
        yield lambda count: bar.advance(task, count)
