"""The journal of cuts: which records of a writer make which batch, written before it is sent.

One line per metric cut, with a CRC, in `cuts.log` of the spool folder. After a crash the cuts that
no acknowledgement was seen for are rebuilt exactly like this, so that a batch number of a writer
has the same content for ever. Where lines overlap the later one holds: a batch that brokers
refused as too large was never stored, and is written down again in two halves.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["JOURNAL_FILE", "CutJournal", "CutRange"]

JOURNAL_FILE: Final = "cuts.log"
COMPACT_BYTES = 64 * 1024  # some thousand cuts: a few milliseconds at the next opening


class CutRange(NamedTuple):
    """Metric records [first_seq, last_seq] make batch `batch_seq`."""

    first_seq: int
    last_seq: int
    batch_seq: int


class CutJournal:
    """The journal in `folder`; the holder of the reader lock alone opens it.

    `notices` are sentences about what was found at the opening. Raises: OSError.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_FILE
        self._cuts: list[CutRange] = []
        self.notices: list[str] = []
        self.next_batch_seq = 0
        self._fd, self._size = -1, 0
        is_new = not self._path.exists()
        self._load()
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._fd).st_size
        if is_new:
            _sync_folder(folder)

    def add(self, cuts: Iterable[CutRange]) -> None:
        """Write cuts down for good. Blocks: one fdatasync. Raises: OSError."""
        self._write(list(cuts))
        os.fdatasync(self._fd)

    def split(self, cut: CutRange) -> None:
        """Write a refused cut down again as two halves under new numbers. Blocks: one fdatasync."""
        middle = (cut.first_seq + cut.last_seq) // 2
        number = self.next_batch_seq
        self.add(
            [
                CutRange(cut.first_seq, middle, number),
                CutRange(middle + 1, cut.last_seq, number + 1),
            ]
        )

    def open_cuts(self, position: int) -> list[CutRange]:
        """Return the cuts from `position` on, in the order of their records."""
        return sorted(cut for cut in self._cuts if cut.last_seq >= position)

    def forget(self, position: int) -> None:
        """Drop the cuts before `position`, for which an acknowledgement is saved elsewhere."""
        self._cuts = [cut for cut in self._cuts if cut.last_seq >= position]
        if self._size >= COMPACT_BYTES and len(self._cuts) * 64 < COMPACT_BYTES:
            self._rewrite()

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, fresh: list[CutRange]) -> None:
        data = b"".join(_line(list(cut)) for cut in fresh)
        try:
            _write_all(self._fd, data)
        except OSError:
            os.ftruncate(self._fd, self._size)  # no half line before the next whole one
            raise
        self._size += len(data)
        for cut in fresh:
            self._apply(cut)

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        *lines, torn = data.split(b"\n")
        bad = 0
        for line in lines:
            fact = _parse(line)
            if fact is None:
                bad += 1
            elif len(fact) == 1:
                self.next_batch_seq = max(self.next_batch_seq, fact[0])
            else:
                self._apply(CutRange(*fact))
        if bad:
            # Each bad line may have been one cut: none of those numbers may come back.
            self.next_batch_seq += bad
            self.notices.append(
                f"{bad} lines of {self._path} are damaged; their points get new batch numbers, so "
                "some may be counted twice in v_completeness. The tables' keys show each once"
            )
        if torn or bad:
            self._rewrite()

    def _apply(self, cut: CutRange) -> None:
        self._cuts = [
            old
            for old in self._cuts
            if old.last_seq < cut.first_seq or old.first_seq > cut.last_seq
        ]
        self._cuts.append(cut)
        self.next_batch_seq = max(self.next_batch_seq, cut.batch_seq + 1)

    def _rewrite(self) -> None:
        """Replace the file by one with nothing but what still matters."""
        data = _line([self.next_batch_seq]) + b"".join(_line(list(cut)) for cut in self._cuts)
        fresh = self._path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _write_all(fd, data)
            os.fsync(fd)
            fresh.replace(self._path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd, self._size = fd, len(data)
        _sync_folder(self._path.parent)


def _line(numbers: list[int]) -> bytes:
    text = json.dumps(numbers, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> list[int] | None:
    crc, _, text = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(text):
        return None
    fact = json.loads(text)
    return fact if isinstance(fact, list) and len(fact) in (1, 3) else None


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
