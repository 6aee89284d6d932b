"""The agent's own spool folders: its records about trainers and their artifacts."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from runwire_disk.host import boot_id, hostname, pid_namespace
from runwire_disk.spool.format import KAFKA, LOCAL, Meta
from runwire_disk.spool.writer import SpoolWriter
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["OwnSpool"]

_log = logging.getLogger("runwire.agent")


class OwnSpool:
    """One folder per mode, so that records about offline runs stay offline. Threads: one."""

    def __init__(self, root: Path, kafka: KafkaSettings | None) -> None:
        self._root, self._kafka = root, kafka
        self._writers: dict[str, SpoolWriter] = {}

    def writer(self, mode: str) -> SpoolWriter:
        """Return the writer for runs of `mode`. Raises: SpoolError when no folder can be made."""
        writer = self._writers.get(mode)
        if writer is not None and writer.folder.exists():
            return writer
        meta = Meta(
            writer=os.urandom(16).hex(),
            role="agent",
            project="runwire",
            run_id="agent",
            attempt="",
            rank=0,
            world_size=1,
            host=hostname(),
            boot_id=boot_id(),
            pid_ns=pid_namespace(),
            pid=os.getpid(),
            started_at_ns=time.time_ns(),
            route=LOCAL if self._kafka is None else KAFKA,
            destination={} if self._kafka is None else self._kafka.public(),
            mode=mode,
        )
        if writer is not None:
            _log.warning("%s was deleted; continuing in a new folder", writer.folder)
            writer.close()
        self._writers[mode] = SpoolWriter.create(self._root, meta)
        return self._writers[mode]

    def close(self) -> None:
        """Close the folders; their reader then delivers them to the end."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def abandon(self) -> None:
        """Forget the folders in a forked child: they belong to the parent."""
        for writer in self._writers.values():
            writer.abandon()
        self._writers.clear()
