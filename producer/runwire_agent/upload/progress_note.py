"""How far a request came, beside it in the outbox: the next agent goes on from there.

It saves work and decides nothing: without it every step is done again, with the same result.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from runwire_disk.files import replace_json
from runwire_disk.outbox.hashing import Signature

__all__ = ["JOURNAL_FILE", "UploadJournal"]

_log = logging.getLogger("runwire.agent")
JOURNAL_FILE: Final = "upload.json"
_KEPT: Final = ("digests", "acked", "acked_at_s", "leaving")
# Brokers keep pieces for two days by default: those acknowledged longer ago are sent again.
ACKED_S_MAX = 24 * 3600.0
# The journal names every file: written after each of ten thousand it would cost hours. What was
# done since the last time is done again after a crash.
NOTE_S = 0.5
# Nor is more than a tenth of the time spent on it, however long it is.
NOTE_SHARE = 0.1


@dataclass(slots=True)
class UploadJournal:
    """What is known of one request's way.

    As a context it writes down all it knows when the work is broken off.
    `digests` holds [sha256, *signature] by file; `acked` pieces by content; `leaving` the manifests
    that retention is about to delete.
    """

    folder: Path
    digests: dict[str, list[Any]] = field(default_factory=dict)
    acked: dict[str, int] = field(default_factory=dict)
    acked_at_s: float = 0.0
    leaving: list[str] = field(default_factory=list)
    _save_at_s: float = 0.0

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return what an earlier agent noted; nothing when that is missing or unreadable."""
        try:
            fields = json.loads((folder / JOURNAL_FILE).read_bytes())
            known = cls(folder=folder, **{name: fields[name] for name in _KEPT})
        except (OSError, ValueError, TypeError, KeyError):
            return cls(folder=folder)
        if time.time() - known.acked_at_s > ACKED_S_MAX:
            known.acked = {}
        return known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.save()

    def save(self) -> None:
        """Note it. A full disk costs only the work that would be saved."""
        began_s = time.monotonic()
        fields = {name: getattr(self, name) for name in _KEPT}
        try:
            replace_json(self.folder / JOURNAL_FILE, fields)
        except OSError as error:
            _log.debug("the way of %s cannot be noted: %s", self.folder.name, error)
        now_s = time.monotonic()
        self._save_at_s = now_s + max(NOTE_S, (now_s - began_s) / NOTE_SHARE)

    def digest(self, name: str, found: Signature) -> str:
        """Return a digest computed earlier of a file that is still the same, else ""."""
        known = self.digests.get(name)
        return str(known[0]) if known is not None and known[1:] == list(found) else ""

    def note_digest(self, name: str, sha256: str, found: Signature) -> None:
        """Keep a digest; on the disk as often as it is worth it."""
        self.digests[name] = [sha256, *found]
        self._save_now_and_then()

    def note_acked(self, sha256: str, pieces: int) -> None:
        """Keep how many pieces from the first on brokers have acknowledged, as `note_digest`."""
        self.acked[sha256] = pieces
        self.acked_at_s = time.time()
        self._save_now_and_then()

    def _save_now_and_then(self) -> None:
        if time.monotonic() >= self._save_at_s:
            self.save()
