"""Which spool folders an agent has to look at: cheap with thousands of folders."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from runwire_disk.paths import spool_dir
from runwire_disk.spool.format import ENDED_FILE, LOCAL, Meta, SpoolError, destination_of
from runwire_disk.spool.reader import list_folders, read_meta

__all__ = ["Folders"]

_log = logging.getLogger("runwire.agent")
# A folder made in the same clock tick as a scan leaves the directory's time as it was; list again
# while the time is this fresh.
FRESH_S = 2.0


class Folders:
    """The trainers' folders of one destination that are not settled yet."""

    def __init__(self, root: Path, destination: str = LOCAL) -> None:
        self._root, self._destination = root, destination
        self._open: dict[Path, Meta] = {}
        self._settled: set[Path] = set()
        self._listed_at_ns = -1

    def unsettled(self) -> dict[Path, Meta]:
        """Folders whose writer lives or whose end nobody recorded yet."""
        try:
            changed_ns = spool_dir(self._root).stat().st_mtime_ns
        except OSError:
            self._open.clear()
            self._settled.clear()
            return {}
        fresh = time.time_ns() - changed_ns < FRESH_S * 1e9
        if fresh or changed_ns != self._listed_at_ns:
            self._listed_at_ns = changed_ns
            self._list()
        return dict(self._open)

    def settle(self, folder: Path) -> None:
        """This folder needs no look any more."""
        self._open.pop(folder, None)
        self._settled.add(folder)

    def _list(self) -> None:
        present = set(list_folders(self._root))
        self._settled &= present
        for gone in self._open.keys() - present:
            del self._open[gone]
        for folder in present - self._settled - self._open.keys():
            try:
                meta = read_meta(folder)
            except SpoolError as error:
                if (folder / "meta.json").exists():
                    _log.warning("not watched: %s", error)
                self._settled.add(folder)
                continue
            is_ours = destination_of(meta) == self._destination and meta.role == "trainer"
            if not is_ours or os.path.lexists(folder / ENDED_FILE):
                self._settled.add(folder)
            else:
                self._open[folder] = meta
