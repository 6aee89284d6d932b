"""The intent journal: what makes the embedded worker's batches exactly-once.

One line per fact, each with a CRC: the worker's id (first line), an intent (synced before it
counts), a done mark (not synced: the next intent's sync covers it, and writing a done batch again
is harmless). What an interrupted write leaves behind is a last line without its newline; such an
intent never returned, so nothing was inserted under it. Any other bad line is damage: it is told,
and the worker takes a new id, because a batch number that was used must never be used again with
other content under the same id.
"""

import contextlib
import fcntl
import json
import os
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runwire_consumers.core.errors import AlreadyRunning

JOURNAL_FILE = "intents.log"
LOCK_FILE = "worker.lock"
FORMAT_VERSION = 1
COMPACT_BYTES = 1024 * 1024  # read in a few milliseconds at the next start


class CutRange(NamedTuple):
    """Consecutive cuts of one series of one spool folder; for metrics exactly one cut."""

    folder: str
    writer: str
    series: str
    first_seq: int
    last_seq: int
    batch_seq: int


@dataclass(frozen=True, slots=True)
class Intent:
    """A batch that is about to be inserted, or may have been."""

    number: int
    token: str
    append_at_ns: int
    cuts: tuple[CutRange, ...]


class Journal(Protocol):
    """Remembers at most one intent beyond the death of the process."""

    pending: Intent | None

    def intend(self, append_at_ns: int, cuts: Sequence[CutRange]) -> Intent:
        """Make an intent durable and return it with its token."""
        ...

    def done(self, intent: Intent) -> None:
        """Forget the intent."""
        ...

    def close(self) -> None:
        """Release the handles."""
        ...


class IntentJournal:
    """The journal in `<folder>/intents.log`; holding it is being the worker of this folder.

    `notices` are sentences about what was found at the opening; the caller says them.
    Raises: AlreadyRunning when another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / JOURNAL_FILE
        self.notices: list[str] = []
        if (folder / LOCK_FILE).exists() and not self._path.exists():
            self.notices.append(
                f"the intent journal {self._path} is gone, so the cursors of the spool folders "
                "count. If the worker died in the middle of a batch just before, that batch may "
                "be written twice; the tables' keys then show it once"
            )
        self._lock_fd = _lock(folder / LOCK_FILE)
        self.pending: Intent | None = None
        self.worker_id = ""
        self._number = 0
        self._fd = -1
        try:
            self._load()
            self._rewrite()
        except BaseException:
            self.close()
            raise

    def intend(self, append_at_ns: int, cuts: Sequence[CutRange]) -> Intent:
        """Append and sync an intent. Blocks: for one fdatasync."""
        number = self._number + 1
        intent = Intent(number, f"{self.worker_id}:{number}", append_at_ns, tuple(cuts))
        self._write(_intent_line(intent))
        os.fdatasync(self._fd)
        self._number = number
        self.pending = intent
        return intent

    def done(self, intent: Intent) -> None:
        """Append a done mark, and compact now and then."""
        self._write(_line({"k": "done", "n": intent.number}))
        self.pending = None
        if self._size >= COMPACT_BYTES:
            self._rewrite()

    def close(self) -> None:
        """Release file and lock."""
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        *lines, torn = data.split(b"\n")
        bad = 0
        for line in lines:
            fact = _parse(line)
            if fact is None or not self._apply(fact):
                bad += 1
        # Whole but for its newline: it may have counted, and writing it again is harmless.
        whole = _parse(torn) or _parse(torn[:-1])
        if torn and not (whole is not None and self._apply(whole)):
            self.notices.append(
                f"the last line of {self._path} was torn by a crash and never counted: ignored"
            )
        if bad:
            self._keep_damaged(bad)
        if bad or not self.worker_id:
            self.worker_id = secrets.token_hex(8)
            self._number = 0

    def _apply(self, fact: dict[str, Any]) -> bool:
        try:
            if fact["k"] == "worker" and fact["format"] == FORMAT_VERSION:
                self.worker_id, self._number = str(fact["id"]), int(fact["n"])
            elif fact["k"] == "intent":
                cuts = tuple(CutRange(*cut) for cut in fact["cuts"])
                number = int(fact["n"])
                self.pending = Intent(number, str(fact["t"]), int(fact["at"]), cuts)
                self._number = max(self._number, number)
            elif fact["k"] == "done":
                if self.pending is not None and self.pending.number == int(fact["n"]):
                    self.pending = None
            else:
                return False
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def _keep_damaged(self, bad: int) -> None:
        kept = self._path.with_suffix(f".damaged-{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            os.link(self._path, kept)
        rest = (
            f"its last intent, {self.pending.token}, is readable and is honoured"
            if self.pending
            else "no open intent is readable in it, so the cursors of the spool folders count"
        )
        self.notices.append(
            f"{bad} lines of the intent journal {self._path} are damaged (a copy is {kept.name}); "
            f"{rest}. If the worker died in the middle of a batch just before, that batch may be "
            "written twice; the tables' keys then show it once"
        )

    def _rewrite(self) -> None:
        """Replace the file by one with nothing but what still matters."""
        head = {"k": "worker", "format": FORMAT_VERSION, "id": self.worker_id, "n": self._number}
        data = _line(head) + (_intent_line(self.pending) if self.pending else b"")
        fresh = self._path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _write_all(fd, data)
            os.fsync(fd)
            fresh.replace(self._path)
            _sync_folder(self._path.parent)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._size = len(data)

    def _write(self, line: bytes) -> None:
        try:
            _write_all(self._fd, line)
        except OSError:
            os.ftruncate(self._fd, self._size)  # no half line before the next whole one
            raise
        self._size += len(line)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise AlreadyRunning(
            f"another worker (pid {holder}) already reads this folder: it holds {path}. Stop that "
            "one first (`runwire down`), or give this one another --dir"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _intent_line(intent: Intent) -> bytes:
    return _line(
        {
            "k": "intent",
            "n": intent.number,
            "t": intent.token,
            "at": intent.append_at_ns,
            "cuts": intent.cuts,
        }
    )


def _line(fact: dict[str, Any]) -> bytes:
    text = json.dumps(fact, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> dict[str, Any] | None:
    crc, _, text = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(text):
        return None
    try:
        fact = json.loads(text)
    except ValueError:
        return None
    return fact if isinstance(fact, dict) else None


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
