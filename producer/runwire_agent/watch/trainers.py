"""Spool folders of trainers: those that one agent is responsible for, cheap with thousands."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from runwire_disk.agents.lock import AgentLock, lock_path
from runwire_disk.files import descriptor_shortage
from runwire_disk.host import boot_id, hostname, pid_namespace
from runwire_disk.paths import spool_dir
from runwire_disk.spool.format import ENDED_FILE, LOCAL, Meta, SpoolError, destination_of
from runwire_disk.spool.reader import list_folders, read_meta, writer_alive

__all__ = ["AgentPlace", "TrainerFolders"]

_log = logging.getLogger("runwire.agent")
# A folder made in the same clock tick as a scan does not change the directory's time again: list
# once more while the time is this fresh.
FRESH_S = 2.0


class AgentPlace:
    """The data root, boot, pid namespace and destination of one agent, and whose folders are its.

    File locks exclude other processes of this machine only, so a shared file system needs rules.
    """

    def __init__(self, root: Path, destination: str = LOCAL) -> None:
        self.root, self.destination = root, destination
        self._boot, self._namespace, self._host = boot_id(), pid_namespace(), hostname()

    def is_here(self, meta: Meta) -> bool:
        """Whether the writer runs, or ran, in this boot and pid namespace."""
        return (meta.boot_id, meta.pid_ns) == (self._boot, self._namespace)

    def is_of_this_boot(self, meta: Meta) -> bool:
        """Whether the writer was started since this machine booted."""
        return meta.boot_id == self._boot

    def adopts(self, meta: Meta) -> bool:
        """Whether a dead writer of another boot or pid namespace has no other agent."""
        if meta.boot_id != self._boot:
            return meta.host == self._host  # else the file system is shared with another machine
        return not self._has_agent(meta)

    def reads(self, folder: Path, meta: Meta) -> bool:
        """Whether this agent ships the folder."""
        if meta.mode == "offline":
            return False  # `runwire sync` does
        if meta.boot_id == self._boot:
            return meta.pid_ns == self._namespace or not self._has_agent(meta)
        return meta.host == self._host and not writer_alive(folder)

    def _has_agent(self, meta: Meta) -> bool:
        path = lock_path(self.root, meta.boot_id, meta.pid_ns, self.destination)
        return AgentLock(path).held()


class TrainerFolders:
    """The trainers' folders of one destination that are not settled yet."""

    def __init__(self, root: Path, destination: str = LOCAL) -> None:
        self._root, self._destination = root, destination
        self._open: dict[Path, Meta] = {}
        self._settled: set[Path] = set()
        self._listed_at_ns = -1

    def unsettled(self) -> dict[Path, Meta]:
        """Return the folders whose writer lives, or whose end is not recorded yet.

        Raises: OSError when no file descriptor is left to look with.
        """
        try:
            changed_ns = spool_dir(self._root).stat().st_mtime_ns
        except OSError:
            self._open.clear()
            self._settled.clear()
            return {}
        fresh = time.time_ns() - changed_ns < FRESH_S * 1e9
        if fresh or changed_ns != self._listed_at_ns:
            self._listed_at_ns = -1  # listed again when this listing fails
            self._list()
            self._listed_at_ns = changed_ns
        return dict(self._open)

    def settle(self, folder: Path) -> None:
        """Stop looking at a folder."""
        self._open.pop(folder, None)
        self._settled.add(folder)

    def forget(self) -> None:
        """List everything again at the next look."""
        self._open.clear()
        self._settled.clear()
        self._listed_at_ns = -1

    def _list(self) -> None:
        present = set(list_folders(self._root))
        self._settled &= present
        for gone in self._open.keys() - present:
            del self._open[gone]
        for folder in present - self._settled - self._open.keys():
            try:
                meta = read_meta(folder)
            except SpoolError as error:
                if isinstance(error.__cause__, OSError) and descriptor_shortage(error.__cause__):
                    raise error.__cause__ from None
                if (folder / "meta.json").exists():
                    _log.warning("not watched: %s", error)
                self._settled.add(folder)
                continue
            is_ours = destination_of(meta) == self._destination and meta.role == "trainer"
            if not is_ours or os.path.lexists(folder / ENDED_FILE):
                self._settled.add(folder)
            else:
                self._open[folder] = meta
