"""Everything that the spool of a data root holds, decoded."""

from __future__ import annotations

from pathlib import Path

from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_schemas import codec
from runwire_schemas.events import Event, MetricBatch, RunEvent


def events(root: Path) -> list[Event]:
    """All events in all folders of the spool."""
    decoded: list[Event] = []
    for folder in list_folders(root):
        reader = FolderReader(folder)
        while cuts := reader.cut():
            decoded += [codec.decode(cut.value) for cut in cuts if cut.value]
        reader.close()
    return decoded


def run_events(root: Path, run_id: str) -> list[RunEvent]:
    """The run events of one run, in the order of the folders and of writing."""
    return [e for e in events(root) if isinstance(e, RunEvent) and e.run_id == run_id]


def end_of(root: Path, run_id: str) -> str | None:
    """The status of a run's last end, None while it has none."""
    ends = [e.status for e in run_events(root, run_id) if e.event == "finished"]
    return ends[-1] if ends else None


def points(root: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(step, value) of each (run id, metric), in the order of logging."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for event in events(root):
        if not isinstance(event, MetricBatch):
            continue
        steps = [
            step for step, n in zip(event.call_step, event.call_n, strict=True) for _ in range(n)
        ]
        for index, step, value in zip(event.name_idx, steps, event.value, strict=True):
            series.setdefault((event.run_id, event.names[index]), []).append((step, value))
    return series
