"""Writers that stand for trainers, and the events of agents about them."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runwire_disk.host import boot_id, hostname, pid_namespace
from runwire_disk.spool.format import Meta
from runwire_disk.spool.reader import FolderReader, list_folders, read_meta
from runwire_disk.spool.writer import SpoolWriter
from runwire_schemas import codec
from runwire_schemas.events import Event

# Open writers of the running test; `close_writers` ends them.
WRITERS: list[SpoolWriter] = []
DEADLINE_S = 30.0


def meta(run_id: str = "r1", **changes: object) -> Meta:
    made = Meta(
        writer=os.urandom(16).hex(),
        role="trainer",
        project="p",
        run_id=run_id,
        attempt="a1",
        rank=0,
        world_size=1,
        host=hostname(),
        boot_id=boot_id(),
        pid_ns=pid_namespace(),
        pid=4242,
        started_at_ns=time.time_ns(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def trainer(root: Path, run_id: str = "r1", *, ends: str = "lives", **changes: object) -> Meta:
    """A writer that started; `ends`: lives, dies (as by SIGKILL) or finishes."""
    made = meta(run_id, **changes)
    writer = SpoolWriter.create(root, made)
    writer.append_json("run", {"event": "started", "status": "running"})
    if ends == "finishes":
        writer.append_json("run", {"event": "finished", "status": "finished"})
        writer.close()
    elif ends == "dies":
        writer.abandon()
    WRITERS.append(writer)
    return made


def agent_events(root: Path) -> list[Event]:
    """All events that agents wrote below `root`."""
    events: list[Event] = []
    for folder in list_folders(root):
        if read_meta(folder).role != "agent":
            continue
        reader = FolderReader(folder, sync=False)
        while cuts := reader.cut():
            events += [codec.decode(cut.value) for cut in cuts]
        reader.close()
    return events


def wait_until(true: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s"
        time.sleep(0.05)


def close_writers() -> None:
    """End every writer that `trainer` opened."""
    for writer in WRITERS:
        writer.close()
    WRITERS.clear()
