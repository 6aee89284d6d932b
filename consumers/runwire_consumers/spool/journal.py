"""Intent journal: makes the batches of the embedded worker exactly-once.

Its facts are the worker's id (first line), an intent (synced before it counts), the pieces that it
is written in (synced too), and a done mark (not synced: the next intent's sync covers it, and
writing a done batch again is harmless). A torn last line never returned, so nothing was inserted
under it. Any other bad line is damage: it is reported, and the worker takes a new id, because a
batch number that was used must never be used again with other content under the same id.
"""

import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runwire_consumers.core.errors import AlreadyRunning
from runwire_consumers.core.pieces import WHOLE, Pieces
from runwire_disk.files import try_lock
from runwire_disk.line_log import LineLog, read_log

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
    """Batch that is about to be inserted, or may have been."""

    number: int
    token: str
    append_at_ns: int
    cuts: tuple[CutRange, ...]
    pieces: Pieces = WHOLE


class Journal(Protocol):
    """Remembers at most one intent beyond the death of the process."""

    pending: Intent | None

    def intend(self, append_at_ns: int, cuts: Sequence[CutRange]) -> Intent:
        """Make an intent durable and return it with its token."""
        ...

    def cut(self, pieces: Pieces) -> None:
        """Make the pieces of the intent durable."""
        ...

    def done(self, intent: Intent) -> None:
        """Forget the intent."""
        ...

    def close(self) -> None:
        """Release the handles."""
        ...


class IntentJournal:
    """The journal in `<folder>/intents.log`, held by the one worker of this folder.

    `notices` are sentences about damage that the opening met; the caller logs them.
    Raises: AlreadyRunning when another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._log = LineLog(folder / JOURNAL_FILE)
        self.notices: list[str] = []
        if (folder / LOCK_FILE).exists() and not self._log.path.exists():
            self.notices.append(
                f"the intent journal {self._log.path} is gone, so the cursors of the spool folders "
                "count. If the worker died in the middle of a batch just before, that batch may "
                "be written twice; the tables' keys then show it once"
            )
        self._lock_fd = _lock(folder / LOCK_FILE)
        self.pending: Intent | None = None
        self.worker_id = ""
        self._number = 0
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
        self._log.append([_intent_fact(intent)])
        self._number = number
        self.pending = intent
        return intent

    def cut(self, pieces: Pieces) -> None:
        """Append and sync the pieces of the open intent. Blocks: for one fdatasync."""
        if self.pending is not None:
            self._log.append([{"k": "pieces", "n": self.pending.number, "p": str(pieces)}])
            self.pending = replace(self.pending, pieces=pieces)

    def done(self, intent: Intent) -> None:
        """Append a done mark, and compact now and then."""
        self._log.append([{"k": "done", "n": intent.number}], sync=False)
        self.pending = None
        if self._log.size >= COMPACT_BYTES:
            self._rewrite()

    def close(self) -> None:
        """Release file and lock."""
        self._log.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _load(self) -> None:
        content = read_log(self._log.path)
        bad = content.damaged + sum(not self._apply(fact) for fact in content.facts)
        # Whole but for its newline: it may have counted, and writing it again is harmless.
        is_taken = content.unended is not None and self._apply(content.unended)
        if content.is_torn or (content.unended is not None and not is_taken):
            self.notices.append(
                f"the last line of {self._log.path} was torn by a crash and never counted: ignored"
            )
        if bad:
            self._keep_damaged(bad)
        if bad or not self.worker_id:
            self.worker_id = secrets.token_hex(8)
            self._number = 0

    def _apply(self, fact: Any) -> bool:
        try:
            if fact["k"] == "worker" and fact["format"] == FORMAT_VERSION:
                self.worker_id, self._number = str(fact["id"]), int(fact["n"])
            elif fact["k"] == "intent":
                cuts = tuple(CutRange(*cut) for cut in fact["cuts"])
                number = int(fact["n"])
                pieces = Pieces.parse(str(fact.get("p", "")))
                self.pending = Intent(number, str(fact["t"]), int(fact["at"]), cuts, pieces)
                self._number = max(self._number, number)
            elif fact["k"] == "pieces":
                if self.pending is not None and self.pending.number == int(fact["n"]):
                    self.pending = replace(self.pending, pieces=Pieces.parse(str(fact["p"])))
            elif fact["k"] == "done":
                if self.pending is not None and self.pending.number == int(fact["n"]):
                    self.pending = None
            else:
                return False
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def _keep_damaged(self, bad: int) -> None:
        kept = self._log.path.with_suffix(f".damaged-{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            os.link(self._log.path, kept)
        rest = (
            f"its last intent, {self.pending.token}, is readable and is honoured"
            if self.pending
            else "no open intent is readable in it, so the cursors of the spool folders count"
        )
        self.notices.append(
            f"{bad} lines of the intent journal {self._log.path} are damaged (a copy is "
            f"{kept.name}); {rest}. If the worker died in the middle of a batch just before, that "
            "batch may be written twice; the tables' keys then show it once"
        )

    def _rewrite(self) -> None:
        """Replace the file by one of the worker's id and its open intent."""
        head = {"k": "worker", "format": FORMAT_VERSION, "id": self.worker_id, "n": self._number}
        self._log.rewrite([head, *([_intent_fact(self.pending)] if self.pending else [])])


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not try_lock(fd):
        holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise AlreadyRunning(
            f"another worker (pid {holder}) already reads this folder: it holds {path}. Stop that "
            "one first (`runwire down`), or give this one another --dir"
        )
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _intent_fact(intent: Intent) -> dict[str, Any]:
    return {
        "k": "intent",
        "n": intent.number,
        "t": intent.token,
        "at": intent.append_at_ns,
        "cuts": intent.cuts,
        **({"p": str(intent.pieces)} if intent.pieces.sizes else {}),
    }
