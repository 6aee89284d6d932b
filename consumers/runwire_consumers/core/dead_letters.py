"""Dead letters: records that could not be stored, kept durably before the commit passes them.

A letter's id follows from its coordinates, so putting it twice changes nothing. The limit
counts the letters kept, so it survives a restart; when it is reached the worker stops, because
a flood of bad records is a broken deploy and not an accident. Where a whole record does not fit,
a cut letter has its beginning, its size and its SHA-256: no record is too large to be set aside.
"""

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

from runwire_consumers.core.errors import DeadLetterLimit
from runwire_consumers.core.source import Record
from runwire_disk.files import replace_bytes
from runwire_disk.spool.letters import letter_id
from runwire_schemas.events import DeadLetter
from runwire_store.folder.files import sync_folder

LETTERS_FILE = "letters.jsonl"
LOCK_FILE = "letters.lock"
# Texts of a cut letter: enough for a writer's id and a sentence, whatever limit its place has.
_CUT_KEY_BYTES_MAX = 256
_CUT_REASON_CHARACTERS_MAX = 1000
_REMOVED = "removed"  # key of a line about a letter that was removed for good
_BYTES_FIELDS = frozenset(("key", "value"))


def letter_of(record: Record, reason: str, *, at_ns: int) -> DeadLetter:
    """Return the dead letter of one record."""
    return DeadLetter(
        id=letter_id(
            stream=record.stream,
            partition=record.partition,
            first=record.offset,
            last=record.last_offset,
            index=record.index,
            topic_id=record.topic_id,
        ),
        stream=record.stream,
        partition=record.partition,
        offset=record.offset,
        last_offset=record.last_offset,
        at_ns=at_ns,
        reason=reason,
        points=record.points,
        key=record.key,
        value=record.value,
        topic_id=record.topic_id,
    )


def cut_letter(letter: DeadLetter, head_bytes: int) -> DeadLetter:
    """Return the letter with the first `head_bytes` of its value, and the size and hash of all."""
    return replace(
        letter,
        key=letter.key[:_CUT_KEY_BYTES_MAX],
        reason=letter.reason[:_CUT_REASON_CHARACTERS_MAX],
        value=letter.value[:head_bytes],
        value_bytes=len(letter.value),
        value_sha256=hashlib.sha256(letter.value).hexdigest(),
    )


class DeadLetters(Protocol):
    """Keeps letters, each once."""

    def put(self, letter: DeadLetter) -> None:
        """Take a letter; it is durable only after `flush`."""
        ...

    def flush(self) -> int:
        """Make every letter put so far durable; return how many were new.

        Raises: DeadLetterLimit when they do not all fit below the limit; those that fit are kept.
        Retryable when the place of the letters is unreachable; put them again before the next
        try.
        """
        ...

    def count(self) -> int:
        """Return how many letters are kept. Raises: Retryable."""
        ...

    def read(self) -> list[DeadLetter]:
        """Return the letters kept, oldest first."""
        ...

    def remove(self, ids: set[str], *, is_final: bool = False) -> int:
        """Delete these letters; return how many there were. Raises: Retryable.

        After a replay a letter is kept again when its record fails again. A final removal is
        remembered: the batch that was being written when the limit was reached is written again,
        and its letters must not reach the limit a second time.
        """
        ...

    def read_original(self, letter: DeadLetter) -> bytes | None:
        """Return the whole value of a cut letter's record; None when it is gone.

        Raises: Retryable.
        """
        ...


def limit_reached(limit: int, place: str) -> DeadLetterLimit:
    """Return the error that stops a worker with too many letters."""
    return DeadLetterLimit(
        f"{limit} records could not be stored and are kept in {place}: the limit is reached. "
        "Nothing was dropped and nothing more is read. List them with `runwire dead-letters ls`, "
        "store them with `runwire dead-letters replay` or delete them with `runwire dead-letters "
        "rm`, or raise RUNWIRE_WORKER_DEAD_LETTERS_MAX, and start again."
    )


class MemoryDeadLetters:
    """Letters in a dictionary; pass the same dictionary and set to simulate a restart."""

    def __init__(
        self,
        letters: dict[str, DeadLetter] | None = None,
        *,
        limit: int = 1000,
        removed: set[str] | None = None,
    ) -> None:
        self.letters = {} if letters is None else letters
        self._removed = set() if removed is None else removed
        self._limit = limit
        self._waiting: list[DeadLetter] = []

    def put(self, letter: DeadLetter) -> None:
        """Take a letter."""
        self._waiting.append(letter)

    def flush(self) -> int:
        """Keep every letter put so far."""
        waiting, self._waiting = self._waiting, []
        known = self.letters.keys() | self._removed
        new = {letter.id: letter for letter in waiting if letter.id not in known}
        room = self._limit - len(self.letters)
        self.letters.update(list(new.items())[: max(0, room)])
        if len(new) > room:
            raise limit_reached(self._limit, "memory")
        return len(new)

    def count(self) -> int:
        """Return how many letters are kept."""
        return len(self.letters)

    def read(self) -> list[DeadLetter]:
        """Return the letters kept, oldest first."""
        return list(self.letters.values())

    def remove(self, ids: set[str], *, is_final: bool = False) -> int:
        """Delete these letters."""
        kept = self.letters.keys() & ids
        if is_final:
            self._removed |= kept
        for gone in kept:
            del self.letters[gone]
        return len(kept)

    def read_original(self, letter: DeadLetter) -> bytes | None:
        """Return None: there is no log behind these letters."""
        return None


class FileDeadLetters:
    """Letters as JSON lines in `<folder>/letters.jsonl`, shared with the command line by a lock.

    Threads: any process may open the same folder; `flush`, `count` and `remove` hold the lock.
    """

    def __init__(self, folder: Path, *, limit: int = 1000) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._path = folder / LETTERS_FILE
        self._limit = limit
        self._waiting: list[DeadLetter] = []
        self._seen: tuple[int, int] | None = None
        self._ids: set[str] = set()
        self._removed: set[str] = set()

    def put(self, letter: DeadLetter) -> None:
        """Take a letter."""
        self._waiting.append(letter)

    def flush(self) -> int:
        """Append the new letters and fsync. Blocks: for one fsync, if there are new letters."""
        if not self._waiting:
            return 0
        waiting, self._waiting = self._waiting, []
        with self._locked():
            self._refresh()
            known = self._ids | self._removed
            new = {letter.id: letter for letter in waiting if letter.id not in known}
            room = max(0, self._limit - len(self._ids))
            self._append(list(new.values())[:room])
            if len(new) > room:
                raise limit_reached(self._limit, str(self._path))
        return len(new)

    def count(self) -> int:
        """Return how many letters are kept."""
        with self._locked():
            self._refresh()
            return len(self._ids)

    def read(self) -> list[DeadLetter]:
        """Return the letters kept, oldest first; a torn last line is ignored."""
        return self._read()[0]

    def remove(self, ids: set[str], *, is_final: bool = False) -> int:
        """Delete these letters; return how many there were. Blocks: for one fsync."""
        with self._locked():
            letters, removed = self._read()
            kept = [letter for letter in letters if letter.id not in ids]
            if is_final:
                removed |= {letter.id for letter in letters} & ids
            lines = [*map(_line, kept), *map(_removed_line, sorted(removed))]
            replace_bytes(self._path, b"".join(lines), sync=True)
        return len(letters) - len(kept)

    def read_original(self, letter: DeadLetter) -> bytes | None:
        """Return None: a file takes whole records, so none of its letters is cut."""
        return None

    def _read(self) -> tuple[list[DeadLetter], set[str]]:
        """Return the letters kept, and the ids of those removed for good."""
        letters: dict[str, DeadLetter] = {}
        removed: set[str] = set()
        if self._path.exists():
            for line in self._path.read_bytes().split(b"\n"):
                parsed = _parse(line)
                if isinstance(parsed, str):
                    removed.add(parsed)
                elif parsed is not None:
                    letters.setdefault(parsed.id, parsed)
        return list(letters.values()), removed

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / LOCK_FILE).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _refresh(self) -> None:
        if not self._path.exists():
            self._path.touch(mode=0o600)
            sync_folder(self._folder)
        now = self._stat()
        if now != self._seen:
            letters, self._removed = self._read()
            self._ids = {letter.id for letter in letters}
            self._seen = now

    def _stat(self) -> tuple[int, int]:
        info = self._path.stat()
        return info.st_ino, info.st_size

    def _append(self, letters: list[DeadLetter]) -> None:
        with self._path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")  # a crash tore the last line: start on a new one
            file.write(b"".join(map(_line, letters)))
            file.flush()
            os.fsync(file.fileno())
        self._ids.update(letter.id for letter in letters)
        self._seen = self._stat()


def _line(letter: DeadLetter) -> bytes:
    values: dict[str, Any] = {}
    for field in fields(letter):
        value = getattr(letter, field.name)
        is_bytes = field.name in _BYTES_FIELDS
        values[field.name] = base64.b64encode(value).decode() if is_bytes else value
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _removed_line(letter_id: str) -> bytes:
    return json.dumps({_REMOVED: letter_id}).encode() + b"\n"


def _parse(line: bytes) -> DeadLetter | str | None:
    """Return the letter of a line, or the id that it says was removed for good."""
    try:
        values = json.loads(line)
        if _REMOVED in values:
            return str(values[_REMOVED])
        for name in _BYTES_FIELDS:
            values[name] = base64.b64decode(values[name])
        return DeadLetter(**values)
    except (ValueError, KeyError, TypeError):
        return None
