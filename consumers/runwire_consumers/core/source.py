"""The `Source` protocol, the origin of records, and its implementation in memory.

A source yields records with coordinates and stores durably, per partition, the committed offset
and at most one *intent*: the exact spans of the batch that is being written. After a crash
`pending()` returns the intent with its records, so that the same batch is rebuilt and written
with the same token (docs: exactly-once protocol).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.pieces import WHOLE, Pieces


@dataclass(slots=True)  # not frozen: one is made for each message, and that takes twice as long
class Record:
    """One encoded record and its coordinates.

    `stream` is the topic kind ("metric"), `offset` and `last_offset` the inclusive range of
    source positions it covers, `points` the number its producer declared (0: unknown or none).
    `damage` is the reason why the source could not read it: such a record becomes a dead letter
    without being decoded. `index` distinguishes records with the same range. `topic_id` sets a
    Kafka topic apart from a deleted one of the same name.
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
    topic_id: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """An inclusive range of offsets of one partition."""

    first: int
    last: int

    def covers(self, other: "Span") -> bool:
        """Return whether the other range is within this one."""
        return self.first <= other.first and other.last <= self.last


@dataclass(frozen=True, slots=True)
class Pending:
    """An intent whose batch may or may not be written, and the records it covers."""

    token: str
    spans: Mapping[str, Span]
    append_at_ns: int
    records: Sequence[Record] = ()
    pieces: Pieces = WHOLE

    def in_part(self) -> "Pending":
        """Return the intent of what is left after some of its records were lost.

        In pieces the rest has other places than before, and a token in use would drop it: it gets a
        token of its own, and rows that are stored already collapse by the tables' keys.
        """
        if not self.pieces.sizes:
            return self
        return replace(self, token=f"{self.token}:rest", pieces=WHOLE)


class Source(Protocol):
    """Yields records in order per partition, and stores intents and commits."""

    def poll(self, timeout_s: float) -> list[Record]:
        """Return new records, in order per partition; none when paused or idle.

        Blocks: at most `timeout_s`.
        """
        ...

    def pending(self) -> list[Pending]:
        """Return intents of an earlier owner that are ready to be written again, each once.

        No newer record of their partitions is yielded before their commit.
        Raises: Retryable while the records cannot be read.
        """
        ...

    def lane(self, partition: str) -> str:
        """Return the lane of a partition: partitions of one lane may share a batch."""
        ...

    def revoked(self) -> frozenset[str]:
        """Return the partitions that moved to another owner since the last call.

        The other owner writes the records that were read from them and not committed.
        """
        ...

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        """Store durably that each of these is one batch; return their insert tokens.

        The spans were polled and are not committed, with one batch per lane; no earlier batch of
        these partitions is pending.
        Raises: Retryable; call `revoked` before the next try.
        """
        ...

    def cut(self, spans: Mapping[str, Span], pieces: Pieces) -> None:
        """Store durably that the pending batch of these spans is written in these pieces.

        Raises: Retryable; call `revoked` before the next try.
        """
        ...

    def commit(self, spans: Mapping[str, Span]) -> None:
        """Move the offsets of these partitions behind the spans and delete their intents.

        Raises: Retryable; call `revoked` before the next try.
        """
        ...

    def pause(self) -> None:
        """Yield nothing until `resume`, but keep the group membership and the locks."""
        ...

    def resume(self) -> None:
        """Undo `pause`."""
        ...

    def close(self, deadline: Deadline) -> None:
        """Release every handle; uncommitted records stay at the source."""
        ...


@dataclass
class MemoryLog:
    """The log behind a MemorySource, which outlives it: records, commits, the intent."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    committed: dict[str, int] = field(default_factory=dict)
    intent: Pending | None = None
    batch_number: int = 0

    def append(self, records: Iterable[Record]) -> None:
        """Add records at the end of their partitions."""
        for record in records:
            self.records.setdefault(record.partition, []).append(record)


class MemorySource:
    """A source over a MemoryLog; a second one on the same log is a restarted process.

    `positions` holds the next offset to yield of each partition.
    """

    def __init__(self, log: MemoryLog, *, records_max: int = 1000) -> None:
        self._log = log
        self._records_max = records_max
        self.positions = dict(log.committed)
        self._is_paused = False

    def poll(self, timeout_s: float) -> list[Record]:
        """Return new records; never blocks."""
        if self._is_paused or self._log.intent:
            return []
        fresh: list[Record] = []
        for partition, records in self._log.records.items():
            start = self.positions.get(partition, 0)
            for record in records:
                if record.offset >= start and len(fresh) < self._records_max:
                    fresh.append(record)
                    self.positions[partition] = record.last_offset + 1
        return fresh

    def pending(self) -> list[Pending]:
        """Return the intent left by an earlier source on this log."""
        intent = self._log.intent
        if intent is None:
            return []
        records = self._covered(intent.spans)
        for record in records:
            self.positions[record.partition] = record.last_offset + 1
        return [replace(intent, records=records)]

    def lane(self, partition: str) -> str:
        """Return one lane for all partitions."""
        return ""

    def revoked(self) -> frozenset[str]:
        """Return no partition: this log has one reader."""
        return frozenset()

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        """Store the spans in the log; return the token."""
        (spans,) = batches
        self._log.batch_number += 1
        token = f"memory:{self._log.batch_number}"
        stamps = [record.append_at_ns for record in self._covered(spans)]
        self._log.intent = Pending(token, dict(spans), max(stamps, default=0))
        return [token]

    def cut(self, spans: Mapping[str, Span], pieces: Pieces) -> None:
        """Store the pieces with the intent."""
        if self._log.intent is not None:
            self._log.intent = replace(self._log.intent, pieces=pieces)

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
        """Do nothing: there is no handle."""
