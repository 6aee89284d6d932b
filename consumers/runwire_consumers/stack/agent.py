"""The agents of the embedded route, as far as the stack starts them: when there is work for one.

Trainers of the Kafka route start their own agents, which ship.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from runwire_disk.agents.lock import local_agents
from runwire_disk.agents.start import start_agent
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import read_waiting
from runwire_disk.spool.format import ENDED_FILE, LOCAL, Meta, SpoolError
from runwire_disk.spool.reader import list_folders, read_meta, writer_alive
from runwire_schemas.connections.s3 import ENDPOINT_VARIABLE


def live_trainers(root: Path) -> list[str]:
    """Return the run ids of the trainers that hold their writer lock now."""
    return [meta.run_id for folder, meta in _trainers(root) if writer_alive(folder)]


def has_work(root: Path) -> bool:
    """Whether a trainer lives, or an artifact waits that an agent from here would ship."""
    return _has_uploads(root) or bool(live_trainers(root))


def ensure_agent(root: Path) -> bool:
    """Start an agent if there is something to watch, record or ship; whether it was started.

    It ends by itself when idle, or when another one was faster.
    """
    if local_agents(root) or not _is_needed(root):
        return False
    # Brokers would make it a shipping agent, of another destination.
    environ = {n: v for n, v in os.environ.items() if not n.startswith("RUNWIRE_KAFKA_")}
    start_agent(root, environ | {"RUNWIRE_DIR": str(root)})
    return True


def _is_needed(root: Path) -> bool:
    """Whether there is an upload, or a trainer whose end no agent has recorded."""
    return _has_uploads(root) or any(
        not (folder / ENDED_FILE).exists() for folder, _ in _trainers(root)
    )


def _trainers(root: Path) -> Iterator[tuple[Path, Meta]]:
    for folder in list_folders(root):
        try:
            meta = read_meta(folder)
        except (OSError, SpoolError):
            continue  # a folder being removed, or one that `spool verify` reports
        if meta.role == "trainer" and meta.route == LOCAL:
            yield folder, meta


def _has_uploads(root: Path) -> bool:
    return any(_is_served(request, os.environ) for request in read_waiting(root))


def _is_served(request: UploadRequest, environ: Mapping[str, str]) -> bool:
    """Whether an agent of the embedded route ships it, started with this environment."""
    if request.destination != LOCAL:
        return False
    if not request.store.get("endpoint"):
        return True  # the folder store of this machine
    return request.mode != "offline" and bool(environ.get(ENDPOINT_VARIABLE))
