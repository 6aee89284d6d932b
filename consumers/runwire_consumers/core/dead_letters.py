"""Dead letters: records that could not be stored, kept durably before the commit passes them.

A letter's id follows from its coordinates, so putting it twice changes nothing. The limit
counts the letters kept, so it survives a restart; when it is reached the worker stops, because
a flood of bad records is a broken deploy and not an accident.
"""

import base64
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from runwire_consumers.core.errors import DeadLetterLimit
from runwire_consumers.core.source import Record
from runwire_disk.files import replace_bytes
from runwire_disk.spool.letters import letter_id
from runwire_schemas.events import DeadLetter
from runwire_store.folder.files import sync_folder

LETTERS_FILE = "letters.jsonl"
LOCK_FILE = "letters.lock"


def letter_of(record: Record, reason: str, *, at_ns: int) -> DeadLetter:
    """Return the dead letter of one record."""
    return DeadLetter(
        id=letter_id(
            stream=record.stream,
            partition=record.partition,
            first=record.offset,
            last=record.last_offset,
            index=record.index,
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

    def remove(self, ids: set[str]) -> int:
        """Delete these letters, after a replay; return how many there were."""
        ...


def limit_reached(limit: int, place: str) -> DeadLetterLimit:
    """Return the error that stops a worker with too many letters."""
    return DeadLetterLimit(
        f"{limit} records could not be stored and are kept in {place}: the limit is reached. "
        "Nothing was dropped and nothing more is read. List them with `runwire dead-letters ls`, "
        "replay or remove them, or raise RUNWIRE_WORKER_DEAD_LETTERS_MAX, and start again."
    )


class MemoryDeadLetters:
    """Letters in a dictionary; pass the same dictionary to simulate a restart."""

    def __init__(self, letters: dict[str, DeadLetter] | None = None, *, limit: int = 1000) -> None:
        self.letters = {} if letters is None else letters
        self._limit = limit
        self._waiting: list[DeadLetter] = []

    def put(self, letter: DeadLetter) -> None:
        """Take a letter."""
        self._waiting.append(letter)

    def flush(self) -> int:
        """Keep every letter put so far."""
        waiting, self._waiting = self._waiting, []
        new = {letter.id: letter for letter in waiting if letter.id not in self.letters}
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

    def remove(self, ids: set[str]) -> int:
        """Delete these letters."""
        kept = self.letters.keys() & ids
        for gone in kept:
            del self.letters[gone]
        return len(kept)


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
            new = {letter.id: letter for letter in waiting if letter.id not in self._ids}
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
        letters: dict[str, DeadLetter] = {}
        if self._path.exists():
            for line in self._path.read_bytes().split(b"\n"):
                letter = _parse(line)
                if letter is not None:
                    letters.setdefault(letter.id, letter)
        return list(letters.values())

    def remove(self, ids: set[str]) -> int:
        """Delete these letters, after a replay; return how many there were."""
        with self._locked():
            letters = self.read()
            kept = [letter for letter in letters if letter.id not in ids]
            replace_bytes(self._path, b"".join(map(_line, kept)), sync=True)
        return len(letters) - len(kept)

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
            self._ids = {letter.id for letter in self.read()}
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
    fields = {
        name: getattr(letter, name)
        for name in (
            *("id", "stream", "partition", "offset", "last_offset"),
            *("at_ns", "reason", "points", "project", "run_id"),
        )
    }
    fields["key"] = base64.b64encode(letter.key).decode()
    fields["value"] = base64.b64encode(letter.value).decode()
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _parse(line: bytes) -> DeadLetter | None:
    try:
        fields = json.loads(line)
        fields["key"] = base64.b64decode(fields["key"])
        fields["value"] = base64.b64decode(fields["value"])
        return DeadLetter(**fields)
    except (ValueError, KeyError, TypeError):
        return None
