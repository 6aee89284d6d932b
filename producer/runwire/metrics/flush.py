"""Progress of one writer's points: spooled, stored, pending and dropped."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

from runwire_disk.spool.format import read_cursor
from runwire_disk.spool.writer import SpoolWriter

__all__ = ["FlushReport", "report_of", "wait_stored"]

# How often `wait_stored` looks at the reader's cursor.
_LOOK_INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True)
class FlushReport:
    """State of one writer's spool.

    Units: points, except `waiting`, which counts records held in memory, for want of disk space or
    until an interrupted append goes on. `spooled` survives the death of the trainer; `acked` is
    stored in ClickHouse (or handed to Kafka); `pending` is spooled but not acked yet.
    """

    spooled: int = 0
    acked: int = 0
    pending: int = 0
    waiting: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def report_of(writer: SpoolWriter) -> FlushReport:
    """Return the state of a writer's spool now."""
    spooled = writer.series["metric"].position().accepted
    cursor = read_cursor(writer.folder)
    passed = min(spooled, max(cursor.accepted, cursor.skip_accepted))
    acked = max(0, passed - writer.given_up - writer.deleted)
    return FlushReport(spooled, acked, spooled - passed, writer.waiting, dict(writer.dropped))


def wait_stored(writer: SpoolWriter, timeout: float | None) -> FlushReport:
    """Wait until the reader has stored everything. Blocks: at most `timeout` seconds."""
    deadline = time.monotonic() + (timeout or 0.0)
    while True:
        report = report_of(writer)
        if not report.pending or time.monotonic() >= deadline:
            return report
        _await(writer, report.spooled)
        time.sleep(_LOOK_INTERVAL_S)


def _await(writer: SpoolWriter, accepted: int) -> None:
    """Ask the reader to save its position once it has this many points."""
    segment = writer.series["metric"].segment
    if segment is not None:
        with contextlib.suppress(ValueError):  # another thread has just closed it; ask again
            segment.set_awaited(accepted)
