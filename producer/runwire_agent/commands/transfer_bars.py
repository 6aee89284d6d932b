"""Progress of long transfers on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

__all__ = ["TransferBars"]

LINE_S = 5.0  # between two lines where there is no terminal
CLEAR = "\r\x1b[K"


class TransferBars:
    """One bar for all artifacts with `rich` and a terminal, else plain lines."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._line_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._is_terminal:
            sys.stderr.write(CLEAR)

    def show(self, text: str, uploads: Mapping[str, Any]) -> None:
        """Show a line, and the progress of uploads (given as `AgentState.uploads`)."""
        if self._is_terminal and self._show_bar(text, uploads):
            return
        if self._is_terminal:
            sys.stderr.write(f"{CLEAR}{text}")
            sys.stderr.flush()
        elif time.monotonic() - self._line_s >= LINE_S:
            self._line_s = time.monotonic()
            print(text, file=sys.stderr)

    def _show_bar(self, text: str, uploads: Mapping[str, Any]) -> bool:
        total = uploads["bytes_done"] + uploads["bytes_left"]
        if self._bar is None and not (total and self._make_bar()):
            return False
        self._bar.update(
            self._task, total=total, completed=uploads["bytes_done"], description=text[:60]
        )
        return True

    def _make_bar(self) -> bool:
        try:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )
        except ImportError:  # of the extra `query`
            return False
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=None)
        self._bar.start()
        return True
