"""The same calls of `log` stored twice: as a loop makes them, and each the careful way."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from runwire.metrics.log import MetricLog
from runwire_disk.spool.reader import FolderReader
from runwire_schemas import codec
from runwire_schemas.events import MetricBatch
from support.spools import metric_log, new_writer

# An instant sends each value of a call through the sorter.
INSTANT = 1_700_000_000

# Names and values of every call, the counts of dropped ones, and the last value of each name.
Kept = tuple[list[tuple[int, str, str]], dict[str, int], dict[str, str]]


def keep_both_ways(root: Path, calls: Sequence[dict[str, Any]]) -> tuple[Kept, Kept]:
    """Return what a plain log keeps of `calls`, and one whose every call is a careful one."""
    return _keep(root / "plain", calls, {}), _keep(root / "careful", calls, {"ts": INSTANT})


def _keep(root: Path, calls: Sequence[dict[str, Any]], how: dict[str, Any]) -> Kept:
    writer = new_writer(root)
    log = metric_log(writer, [])
    for data in calls:
        log.log(data, **how)
    last = {name: repr(value) for name, value in log.last().items()}
    writer.close()
    points = []
    reader = FolderReader(writer.folder, sync=False)
    while cuts := reader.cut():
        for event in (codec.decode(cut.value) for cut in cuts):
            if isinstance(event, MetricBatch):
                pairs = zip(event.call_step, event.call_n, strict=True)
                steps = [step for step, n in pairs for _ in range(n)]
                names = (event.names[index] for index in event.name_idx)
                points += list(zip(steps, names, map(repr, event.value), strict=True))
    reader.close()
    return points, writer.dropped, last


def functions_of(log: MetricLog, data: dict[str, Any]) -> int:
    """Return how many Python functions one call of `log` runs."""
    found = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal found
        found += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        log.log(data)
    finally:
        sys.setprofile(before)
    return found
