"""Progress of one upload, stored beside its request so that the next agent can resume.

It saves work and decides nothing: without it every step is repeated with the same result.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from runwire_disk.files import replace_json
from runwire_disk.outbox.hashing import Signature

__all__ = ["NOTE_FILE", "ProgressNote"]

_log = logging.getLogger("runwire.agent")
NOTE_FILE: Final = "upload.json"
_KEPT: Final = ("digests", "acked", "acked_at_s", "released")
# Brokers keep pieces for two days by default: those acknowledged longer ago are sent again.
ACKED_S_MAX = 24 * 3600.0
# The note lists every file: writing it after each of ten thousand would cost hours. Work since the
# last write is repeated after a crash.
SAVE_INTERVAL_S = 0.5
# At most a tenth of the time is spent writing, however long the note is.
SAVE_SHARE = 0.1


@dataclass(slots=True)
class ProgressNote:
    """The progress of one request; as a context manager it is saved when the block raises.

    Shapes: `digests` has [sha256, *signature] by file, `acked` the number of acknowledged pieces by
    content, `released` the manifests that retention is about to delete.
    """

    folder: Path
    digests: dict[str, list[Any]] = field(default_factory=dict)
    acked: dict[str, int] = field(default_factory=dict)
    acked_at_s: float = 0.0
    released: list[str] = field(default_factory=list)
    _save_at_s: float = 0.0

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the note of an earlier agent, an empty one if it is missing or unreadable."""
        try:
            fields = json.loads((folder / NOTE_FILE).read_bytes())
            note = cls(folder=folder, **{name: fields[name] for name in _KEPT})
        except (OSError, ValueError, TypeError, KeyError):
            return cls(folder=folder)
        if time.time() - note.acked_at_s > ACKED_S_MAX:
            note.acked = {}
        return note

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.save()

    def save(self) -> None:
        """Write it. If the disk is full, only saved work is lost."""
        began_s = time.monotonic()
        fields = {name: getattr(self, name) for name in _KEPT}
        try:
            replace_json(self.folder / NOTE_FILE, fields)
        except OSError as error:
            _log.debug("the progress of %s cannot be saved: %s", self.folder.name, error)
        now_s = time.monotonic()
        self._save_at_s = now_s + max(SAVE_INTERVAL_S, (now_s - began_s) / SAVE_SHARE)

    def digest(self, name: str, now: Signature) -> str:
        """Return the digest of a file computed earlier, "" if the file has changed since."""
        known = self.digests.get(name)
        return str(known[0]) if known is not None and known[1:] == list(now) else ""

    def note_digest(self, name: str, sha256: str, now: Signature) -> None:
        """Keep the digest of a file; written to disk now and then."""
        self.digests[name] = [sha256, *now]
        self._save_if_due()

    def note_acked(self, sha256: str, pieces: int) -> None:
        """Keep the number of leading pieces that brokers have acknowledged, as `note_digest`."""
        self.acked[sha256] = pieces
        self.acked_at_s = time.time()
        self._save_if_due()

    def read_released(self) -> Sequence[str]:
        """Return the manifests that a release was about to delete."""
        return self.released

    def write_released(self, manifests: Sequence[str]) -> None:
        """Keep the manifests that a release is about to delete."""
        self.released = list(manifests)
        self.save()

    def _save_if_due(self) -> None:
        if time.monotonic() >= self._save_at_s:
            self.save()
