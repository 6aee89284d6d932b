"""Batches: decoded rows plus the exact spans they came from, which is their identity.

A batch never changes once it is closed, and the intent gives it its token: the same token with
other content would be dropped silently by the store. `Batch.without` is the one exception, and it
is repeatable: a sink refuses the same rows again.

A lane is a set of partitions that may share a batch. The spool has one lane, because its journal
fences everything at once; in Kafka every partition is a lane, because it may move to another worker
alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import inf
from typing import Any, Final, TypeVar

from runwire_consumers.core.clock import Clock
from runwire_consumers.core.dead_letters import letter_of
from runwire_consumers.core.errors import Fatal, Rejection
from runwire_consumers.core.pieces import WHOLE, Pieces
from runwire_consumers.core.source import Pending, Record, Span
from runwire_schemas import codec
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import EVENTS, DeadLetter, Event
from runwire_schemas.metric_decode import MetricColumns, decode_fast, decode_metric_batch

T = TypeVar("T")
Decoded = Event | MetricColumns


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of a round of batches: the first one reached closes it.

    Units: `age_s` counts from the close of the last round, so that the first news after a quiet
    spell is written at once and no more than one round is written in that time.
    Source: design 4.3 (1 s or 1 M rows); 64 MB bounds what a worker holds of long log lines.
    """

    age_s: float = 1.0
    rows: int = 1_000_000
    bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that a sink writes under one token, which is empty until the intent is stored.

    `origins[kind]` is parallel to `events[kind]` (for "metric": to `metrics`) and holds the record
    of each. `append_at_ns` is the greatest of its records: the watermark. `places[kind]` holds the
    place of each row in the batch as it was closed, once rows were rejected. `blocks` is what the
    sink has built of these very rows and pieces ahead of the write, None before that.
    """

    token: str
    spans: Mapping[str, Span]
    append_at_ns: int
    events: Mapping[str, list[Event]] = field(default_factory=dict)
    metrics: list[MetricColumns] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    origins: Mapping[str, list[Record]] = field(default_factory=dict)
    places: Mapping[str, list[int]] = field(default_factory=dict)
    pieces: Pieces = WHOLE
    blocks: Any = field(default=None, repr=False, compare=False)

    def named(self, token: str) -> "Batch":
        """Return this batch under the token that its intent has given it."""
        return replace(self, token=token)

    def in_pieces(self, pieces: Pieces) -> "Batch":
        """Return this batch to be written in these pieces."""
        return replace(self, pieces=pieces, blocks=None)

    def places_of(self, kind: str) -> Sequence[int]:
        """Return the place of each row of a kind; for "metric" that of its first point."""
        if kind in self.places:
            return self.places[kind]
        if kind == "metric":
            return list(accumulate((m.points for m in self.metrics), initial=0))[:-1]
        return range(len(self.events.get(kind, [])))

    @property
    def points(self) -> int:
        """Number of points in all metric columns."""
        return sum(columns.points for columns in self.metrics)

    @property
    def rows(self) -> int:
        """Number of rows of every kind, dead letters included."""
        return self.points + sum(map(len, self.events.values())) + len(self.dead)

    def without(self, rejections: Iterable[Rejection]) -> "Batch":
        """Return this batch with the rejected rows turned into dead letters."""
        reasons: dict[str, dict[int, str]] = defaultdict(dict)
        for rejection in rejections:
            reasons[rejection.kind][rejection.index] = rejection.reason
        dead = list(self.dead)
        for kind, by_index in reasons.items():
            rows: list[MetricColumns] | list[Event]
            rows = self.metrics if kind == "metric" else self.events[kind]
            for index, reason in sorted(by_index.items()):
                dead.append(_rejected(self, self.origins[kind][index], rows[index], reason))
        events = {kind: _kept(rows, reasons[kind]) for kind, rows in self.events.items()}
        origins = {kind: _kept(rows, reasons[kind]) for kind, rows in self.origins.items()}
        metrics = _kept(self.metrics, reasons["metric"])
        places = {kind: _kept(list(self.places_of(kind)), reasons[kind]) for kind in self.origins}
        return replace(
            self,
            events=events,
            metrics=metrics,
            dead=dead,
            origins=origins,
            places=places,
            blocks=None,
        )


def _kept(rows: list[T], out: Mapping[int, str]) -> list[T]:
    return [row for index, row in enumerate(rows) if index not in out] if out else rows


def _rejected(batch: Batch, record: Record, row: Decoded, reason: str) -> DeadLetter:
    letter = letter_of(record, f"rejected by the sink: {reason}", at_ns=batch.append_at_ns)
    points = row.points if isinstance(row, MetricColumns) else letter.points
    return replace(letter, points=points, project=row.project, run_id=row.run_id)


class BatchBuilder:
    """Gathers the decoded records of one batch after the other."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._spans: dict[str, Span] = {}
        self._events: dict[str, list[Event]] = {}
        self._metrics: list[MetricColumns] = []
        self._origins: dict[str, list[Record]] = {}
        self._bad: list[tuple[Record, str]] = []
        self._append_at_ns = 0
        self._rows = 0
        self._bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether no record was added since the last batch."""
        return not self._spans

    @property
    def spans(self) -> Mapping[str, Span]:
        """The spans of the open batch; a view that the next `add` changes."""
        return self._spans

    @property
    def rows(self) -> int:
        """Number of rows in the open batch."""
        return self._rows

    @property
    def bytes(self) -> int:
        """Number of encoded bytes in the open batch."""
        return self._bytes

    @property
    def streams(self) -> Iterable[str]:
        """The kinds of the records in the open batch."""
        return self._origins

    def add(self, record: Record, decoded: Decoded) -> None:
        """Add a decoded record."""
        self._cover(record)
        if isinstance(decoded, MetricColumns):
            self._metrics.append(decoded)
            self._rows += decoded.points
        else:
            self._events.setdefault(record.stream, []).append(decoded)
            self._rows += 1
        self._origins.setdefault(record.stream, []).append(record)

    def add_bad(self, record: Record, reason: str) -> None:
        """Add a record that becomes a dead letter."""
        self._cover(record)
        self._bad.append((record, reason))
        self._rows += 1

    def close(self, token: str = "") -> Batch:
        """Return the batch, under its token when that is known, and begin the next one."""
        dead = [letter_of(record, why, at_ns=self._append_at_ns) for record, why in self._bad]
        batch = Batch(
            token=token,
            spans=self._spans,
            append_at_ns=self._append_at_ns,
            events=self._events,
            metrics=self._metrics,
            dead=dead,
            origins=self._origins,
        )
        self._begin()
        return batch

    def close_again(self, pending: Pending) -> Batch:
        """Return the batch that an earlier owner announced, with its identity.

        Raises: Fatal when the records are not those of the intent.
        """
        covered, intended = self._spans, pending.spans
        if any(p not in intended or not intended[p].covers(s) for p, s in covered.items()):
            raise Fatal(
                f"batch {pending.token} cannot be rebuilt: it covers {dict(intended)}, the source "
                f"yields {dict(covered)}. Nothing was written. Report this; it must not happen"
            )
        if dict(covered) != dict(intended):
            pending = pending.in_part()
        batch = self.close(pending.token)
        return replace(
            batch, spans=intended, append_at_ns=pending.append_at_ns, pieces=pending.pieces
        )

    def _cover(self, record: Record) -> None:
        span = self._spans.get(record.partition)
        first = span.first if span else record.offset
        self._spans[record.partition] = Span(first, record.last_offset)
        self._append_at_ns = max(self._append_at_ns, record.append_at_ns)
        self._bytes += len(record.value)


def decode_record(record: Record) -> Decoded:
    """Return the event, or for metrics the columns, of a record.

    Raises: DecodeError when the bytes are no message or of another kind than their stream.
    """
    if record.stream == "metric":
        return decode_metric_batch(record.value)
    event = codec.decode(record.value, kind=record.stream if record.stream in EVENTS else "")
    if not isinstance(event, EVENTS.get(record.stream, ())):
        raise DecodeError(f"{type(event).__name__} in the stream {record.stream!r}")
    return event


def decode_ahead(records: Sequence[Record]) -> list[Decoded | None]:
    """Decode the records that can be decoded together; None for those that `decode_record` reads.

    It costs far less than one after the other: most metric records hold few points.
    """
    decoded: list[Decoded | None] = [None] * len(records)
    # Records of a batch beside each other: their columns are then joined without copies of each.
    metrics = [i for i, record in enumerate(records) if record.stream == "metric"]
    metrics.sort(key=lambda i: records[i].partition)
    found = decode_fast([records[i].value for i in metrics])
    for i, columns in zip(metrics, found, strict=True):
        if not records[i].damage:
            decoded[i] = columns
    return decoded


@dataclass(frozen=True, slots=True)
class Decoder:
    """How records become rows: many at once, and one by one where that yields None."""

    many: Callable[[Sequence[Record]], list[Decoded | None]] = decode_ahead
    one: Callable[[Record], Decoded] = decode_record


DECODER: Final = Decoder()


# What readers must see before any point: else there are points of an unknown attempt.
BEFORE_POINTS = ("run", "param", "heartbeat")
_ORDER = (*BEFORE_POINTS, "metric")


class OpenBatches:
    """Open batches, one per lane; they close together when their sum reaches a limit."""

    def __init__(self, limits: BatchLimits, clock: Clock, lane: Callable[[str], str]) -> None:
        self._limits = limits
        self._clock = clock
        self._lane = lane
        self._builders: dict[str, BatchBuilder] = {}
        self._rows = self._bytes = 0
        self._closed_s = -inf

    @property
    def is_empty(self) -> bool:
        """Whether no record was added since the last close."""
        return not self._builders

    @property
    def is_due(self) -> bool:
        """Whether a limit is reached."""
        return not self.is_empty and (self.is_full or self.left_s <= 0.0)

    @property
    def is_full(self) -> bool:
        """Whether the limit of rows or bytes is reached."""
        return self._rows >= self._limits.rows or self._bytes >= self._limits.bytes

    @property
    def left_s(self) -> float:
        """Seconds until the age limit, from the last close; the whole limit while empty."""
        if self.is_empty:
            return self._limits.age_s
        return max(0.0, self._closed_s + self._limits.age_s - self._clock.monotonic_s())

    @property
    def rows(self) -> int:
        """Number of rows in all open batches."""
        return self._rows

    @property
    def spans(self) -> list[Mapping[str, Span]]:
        """The spans of each batch."""
        return [builder.spans for builder in self._builders.values()]

    def continues(self, record: Record) -> bool:
        """Return whether a record shares its offsets with the last one: one batch holds both."""
        builder = self._builders.get(self._lane(record.partition))
        span = builder.spans.get(record.partition) if builder else None
        return span is not None and span.last >= record.last_offset

    def add(self, record: Record, decoded: Decoded) -> None:
        """Add a decoded record."""
        self._of(record).add(record, decoded)
        self._rows += decoded.points if isinstance(decoded, MetricColumns) else 1

    def add_bad(self, record: Record, reason: str) -> None:
        """Add a record that becomes a dead letter."""
        self._of(record).add_bad(record, reason)
        self._rows += 1

    def close(self) -> list[Batch]:
        """Return the batches, those with runs first, and begin new ones."""
        ordered = sorted(self._builders.values(), key=_rank)
        self._builders = {}
        self._rows = self._bytes = 0
        self._closed_s = self._clock.monotonic_s()
        return [builder.close() for builder in ordered]

    def drop(self, partitions: frozenset[str]) -> None:
        """Drop the records of partitions that moved to another worker."""
        self._builders = {
            lane: builder
            for lane, builder in self._builders.items()
            if partitions.isdisjoint(builder.spans)
        }
        self._rows = sum(builder.rows for builder in self._builders.values())
        self._bytes = sum(builder.bytes for builder in self._builders.values())

    def _of(self, record: Record) -> BatchBuilder:
        self._bytes += len(record.value)
        lane = self._lane(record.partition)
        builder = self._builders.get(lane)
        if builder is None:
            builder = self._builders[lane] = BatchBuilder()
        return builder


def _rank(builder: BatchBuilder) -> int:
    return min((_ORDER.index(k) for k in builder.streams if k in _ORDER), default=len(_ORDER))
