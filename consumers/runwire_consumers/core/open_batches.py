"""The batches that are still growing: one per lane of the source, written together.

A lane is a set of partitions that may share a batch. The spool has one lane, its journal fences
everything at once; in Kafka every partition is a lane, because it may move to another worker alone.
"""

from collections.abc import Callable, Mapping

from runwire_consumers.core.batch import Batch, BatchBuilder, BatchLimits, Decoded
from runwire_consumers.core.clock import Clock
from runwire_consumers.core.source import Record, Span
from runwire_schemas.metric_decode import MetricColumns

# Within one write runs come first, so that nobody sees points of an unknown attempt.
_ORDER = ("run", "param", "heartbeat", "metric")


class OpenBatches:
    """Gathers records by lane until a limit closes all of them; the limits hold for the sum."""

    def __init__(self, limits: BatchLimits, clock: Clock, lane: Callable[[str], str]) -> None:
        self._limits = limits
        self._clock = clock
        self._lane = lane
        self._builders: dict[str, BatchBuilder] = {}
        self._rows = self._bytes = 0

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
        """Whether nothing more may be added before a close."""
        return self._rows >= self._limits.rows or self._bytes >= self._limits.bytes

    @property
    def left_s(self) -> float:
        """Seconds until the oldest one reaches the age limit; the whole limit while empty."""
        return min((b.left_s for b in self._builders.values()), default=self._limits.age_s)

    @property
    def rows(self) -> int:
        """Rows in all of them."""
        return self._rows

    @property
    def spans(self) -> list[Mapping[str, Span]]:
        """What each covers, in the order in which `close` returns them."""
        return [builder.spans for builder in self._ordered()]

    def continues(self, record: Record) -> bool:
        """Whether a record shares its offsets with the last one: one batch holds both."""
        builder = self._builders.get(self._lane(record.partition))
        span = builder.spans.get(record.partition) if builder else None
        return span is not None and span.last >= record.last_offset

    def add(self, record: Record, decoded: Decoded) -> None:
        """Add a record that could be decoded."""
        self._of(record).add(record, decoded)
        self._rows += decoded.points if isinstance(decoded, MetricColumns) else 1

    def add_bad(self, record: Record, reason: str) -> None:
        """Add a record that becomes a dead letter."""
        self._of(record).add_bad(record, reason)
        self._rows += 1

    def close(self, tokens: list[str]) -> list[Batch]:
        """Return the batches under their tokens and begin anew."""
        ordered = self._ordered()
        self._builders = {}
        self._rows = self._bytes = 0
        return [builder.close(token) for builder, token in zip(ordered, tokens, strict=True)]

    def drop(self, partitions: frozenset[str]) -> None:
        """Forget what was gathered from partitions that somebody else has now."""
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
            builder = self._builders[lane] = BatchBuilder(self._limits, self._clock)
        return builder

    def _ordered(self) -> list[BatchBuilder]:
        return sorted(self._builders.values(), key=_rank)


def _rank(builder: BatchBuilder) -> int:
    return min((_ORDER.index(k) for k in builder.streams if k in _ORDER), default=len(_ORDER))
