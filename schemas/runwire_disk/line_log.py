"""Append-only log of JSON facts, one line with a CRC each: the ground of exactly-once delivery.

    line := crc32 of the text in 8 hex digits, space, text (compact JSON), newline

A fact counts once `append` has returned. An interrupted append leaves a torn last line, which was
never relied on. Any other line whose CRC does not hold is damage: its fact is lost although it may
have counted, and the owner of the log decides what that costs. The only writer is the holder of
the lock that its owner keeps beside the log.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runwire_disk.files import write_all
from runwire_store.folder.files import sync_folder

__all__ = ["LINE_BYTES_MIN", "LineLog", "LogContent", "read_log"]

# CRC, space, the shortest text, newline: bounds how many facts a damaged stretch can have held.
LINE_BYTES_MIN: Final = 8 + 1 + 1 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LogContent:
    """Content of a log: its facts in order, and the lines that are none.

    `unended` is the fact of a last line that misses nothing but its newline: the append was
    interrupted after the text and did not return. `is_torn` says that the last line misses more.

    Units: `damaged` in lines, `facts_lost_max` in facts.
    """

    facts: tuple[Any, ...] = ()
    unended: Any = None
    is_torn: bool = False
    damaged: int = 0
    facts_lost_max: int = 0

    @property
    def needs_rewrite(self) -> bool:
        """Tell whether lines must go before another one may be appended."""
        return self.is_torn or self.unended is not None or self.damaged > 0


def read_log(path: Path) -> LogContent:
    """Return the content of a log, empty where there is no file. Raises: OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return LogContent()
    *lines, last = data.split(b"\n")
    facts: list[Any] = []
    damaged = lost = 0
    for line in lines:
        fact = _parse(line)
        if fact is None:
            damaged += 1
            # A damaged newline joins its two lines into one.
            lost += max(1, (len(line) + 1) // LINE_BYTES_MIN)
        else:
            facts.append(fact)
    unended = _parse(last)
    # One byte after the whole text: the newline was written, so the fact counts, and is damaged.
    ended = _parse(last[:-1]) if unended is None else None
    if ended is not None:
        facts.append(ended)
    return LogContent(
        facts=tuple(facts),
        unended=unended,
        is_torn=bool(last) and unended is None,
        damaged=damaged,
        facts_lost_max=lost,
    )


class LineLog:
    """The file of one log, open for appending after `open` or `rewrite`.

    Threads: one. Raises: OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._fd = -1

    def open(self) -> None:
        """Open the file for appending; a new one is there after a power cut.

        Its content must not need a rewrite.
        """
        is_new = not self.path.exists()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        self.size = os.fstat(self._fd).st_size
        if is_new:
            sync_folder(self.path.parent)

    def append(self, facts: Iterable[object], *, sync: bool = True) -> None:
        """Append facts; with `sync` they survive a power cut once this returns.

        An error leaves the log as it was. Blocks: with `sync`, one fdatasync.
        """
        data = b"".join(map(_line, facts))
        try:
            write_all(self._fd, data)
            if sync:
                os.fdatasync(self._fd)
        except OSError:
            # No half line before the next whole one, and no fact that its owner takes for absent.
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)

    def rewrite(self, facts: Iterable[object]) -> None:
        """Replace the file in one step by one of these facts, and append to that from now on.

        Blocks: two fsyncs.
        """
        data = b"".join(map(_line, facts))
        fresh = self.path.with_name(self.path.name + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(fresh, flags, 0o600)
        try:
            write_all(fd, data)
            os.fsync(fd)
            fresh.replace(self.path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd, self.size = fd, len(data)
        sync_folder(self.path.parent)

    def is_linked(self) -> bool:
        """Tell whether the file still has a name; false once somebody deleted it."""
        try:
            return self._fd >= 0 and os.fstat(self._fd).st_nlink > 0
        except OSError as error:
            if error.errno == errno.ESTALE:  # another machine deleted it on a shared file system
                return False
            raise

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _line(fact: object) -> bytes:
    text = json.dumps(fact, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> Any:
    """Return the fact of a line; None when its CRC does not hold."""
    crc, _, text = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(text):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None
