"""Where records come from: the `Source` protocol and its implementation in memory.

A source yields records with coordinates and remembers, durably, two things per
partition: the committed offset, and at most one *intent*: the exact spans of the batch
that is being written. After a crash `pending()` hands the intent out again with its records,
so that the same batch is rebuilt and written with the same token (docs: exactly-once protocol).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from runwire_consumers.core.clock import Deadline


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded record and where it stands.

    `stream` is the topic kind ("metric"), `offset` and `last_offset` the inclusive range of
    source positions it covers, `points` what its producer says it holds (0: unknown or none).
    `damage` names why the source could not read it: such a record is a dead letter from birth.
    `index` tells records with the same range apart.
    """

    stream: str
    partition: str
    offset: int
    last_offset: int
    append_at_ns: int
    value: bytes
    key: bytes = b""
    points: int = 0
    damage: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """An inclusive range of offsets of one partition."""

    first: int
    last: int

    def covers(self, other: "Span") -> bool:
        """Whether the other range lies in this one."""
        return self.first <= other.first and other.last <= self.last


@dataclass(frozen=True, slots=True)
class Pending:
    """An intent that is not known to be written, and the records that it covers."""

    token: str
    spans: Mapping[str, Span]
    append_at_ns: int
    records: Sequence[Record] = ()


class Source(Protocol):
    """Yields records in order per partition and commits what it is told."""

    def poll(self, timeout_s: float) -> list[Record]:
        """Return what is new, in order per partition; empty when paused or idle.

        Blocks: at most `timeout_s`.
        """
        ...

    def pending(self) -> list[Pending]:
        """Return intents of an earlier owner that are ready to be written again, each once.

        Nothing newer of their partitions is yielded before their commit.
        Raises: Retryable when the records cannot be reached yet.
        """
        ...

    def lane(self, partition: str) -> str:
        """Return what partitions that may share a batch have in common."""
        ...

    def revoked(self) -> frozenset[str]:
        """Return the partitions that went to another owner since the last call.

        What was read from them and is not committed is the other owner's to write.
        """
        ...

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        """Make "each of these is one batch" durable and return their insert tokens.

        Called with spans that were polled and not committed yet, one batch per lane, never while
        an earlier one of these partitions is pending.
        Raises: Retryable; ask `revoked` before the next try.
        """
        ...

    def commit(self, spans: Mapping[str, Span]) -> None:
        """Forget the intents of these partitions and everything up to the end of the spans.

        Raises: Retryable; ask `revoked` before the next try.
        """
        ...

    def pause(self) -> None:
        """Yield nothing until `resume`, but stay a member (of the group, of the locks)."""
        ...

    def resume(self) -> None:
        """Undo `pause`."""
        ...

    def close(self, deadline: Deadline) -> None:
        """Release every handle. Uncommitted records stay where they are."""
        ...


@dataclass
class MemoryLog:
    """What survives the death of a MemorySource: records, commits, the intent."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    committed: dict[str, int] = field(default_factory=dict)
    intent: Pending | None = None
    batch_number: int = 0

    def append(self, records: Iterable[Record]) -> None:
        """Add records at the end of their partitions."""
        for record in records:
            self.records.setdefault(record.partition, []).append(record)


class MemorySource:
    """A source over a MemoryLog; a second one on the same log is a restarted process."""

    def __init__(self, log: MemoryLog, *, records_max: int = 1000) -> None:
        self._log = log
        self._records_max = records_max
        self._read = dict(log.committed)
        self._is_paused = False

    def poll(self, timeout_s: float) -> list[Record]:
        """Return what is new; never blocks."""
        if self._is_paused or self._log.intent:
            return []
        found: list[Record] = []
        for partition, records in self._log.records.items():
            start = self._read.get(partition, 0)
            for record in records:
                if record.offset >= start and len(found) < self._records_max:
                    found.append(record)
                    self._read[partition] = record.last_offset + 1
        return found

    def pending(self) -> list[Pending]:
        """Return the intent left by an earlier source on this log."""
        intent = self._log.intent
        if intent is None:
            return []
        records = self._covered(intent.spans)
        for record in records:
            self._read[record.partition] = record.last_offset + 1
        return [replace(intent, records=records)]

    def lane(self, partition: str) -> str:
        """All partitions share one."""
        return ""

    def revoked(self) -> frozenset[str]:
        """Nobody else reads this log."""
        return frozenset()

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        """Remember the spans in the log and return the token."""
        (spans,) = batches
        self._log.batch_number += 1
        token = f"memory:{self._log.batch_number}"
        stamps = [record.append_at_ns for record in self._covered(spans)]
        self._log.intent = Pending(token, dict(spans), max(stamps, default=0))
        return [token]

    def commit(self, spans: Mapping[str, Span]) -> None:
        """Move the committed offsets and drop the intent."""
        for partition, span in spans.items():
            self._log.committed[partition] = span.last + 1
        self._log.intent = None

    def _covered(self, spans: Mapping[str, Span]) -> list[Record]:
        return [
            record
            for partition, span in spans.items()
            for record in self._log.records[partition]
            if span.first <= record.offset <= span.last
        ]

    def pause(self) -> None:
        """Yield nothing until `resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Undo `pause`."""
        self._is_paused = False

    def close(self, deadline: Deadline) -> None:
        """Nothing to release."""
