"""Encoder of compact spool records into Avro values, for the agent and the embedded worker.

Pure and deterministic: the same records give the same bytes, which is what makes a retried batch
the same batch. Metric values are copied as they are in the spool, since Avro doubles are IEEE
little-endian too; only per-call fields are encoded.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runwire_disk.spool.format import JSON_KINDS, LAYOUT, METRIC, METRIC_HEAD, WIDE, Meta
from runwire_disk.spool.scan import Damage, SpoolRecord
from runwire_schemas import codec
from runwire_schemas.errors import SchemaError
from runwire_schemas.events import EVENTS
from runwire_schemas.metric_encode import MetricParts
from runwire_schemas.varint import encode_long


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Records [first_seq, last_seq] of one series as one Avro value.

    `value` is empty when the range holds damage alone. `points_lost` counts accepted points that
    the range should hold and does not. `spool_bytes` is, on the last cut of one look, the
    number of bytes which that look read: many mean that there may be more.
    """

    writer: str
    kind: str
    series: str
    first_seq: int
    last_seq: int
    batch_seq: int
    points: int
    value: bytes
    points_lost: int = 0
    damage: tuple[Damage, ...] = ()
    spool_bytes: int = field(default=0, compare=False)


@dataclass(slots=True)
class MetricCutter:
    """Collects metric records of one segment into one MetricBatch value."""

    layouts: dict[int, list[str]] = field(default_factory=dict)
    accepted: int = 0
    points: int = 0
    points_lost: int = 0
    _points_before: int = 0
    _names: dict[str, int] = field(default_factory=dict)
    _encoded: dict[int, bytes] = field(default_factory=dict)
    _calls: list[tuple[int, int, int, int]] = field(default_factory=list)
    _name_idx: list[bytes] = field(default_factory=list)
    _values: list[bytes] = field(default_factory=list)

    def add(self, record: SpoolRecord) -> None:
        """Take one record of the metric series; LAYOUT records only teach names."""
        if record.kind == METRIC:
            self._add_metric(record.body)
        elif record.kind == LAYOUT:
            layout = json.loads(record.body[8:])
            self.layouts[layout["id"]] = layout["names"]
        elif record.kind == WIDE:
            self._add_wide(json.loads(record.body[8:]))

    def _add_metric(self, body: bytes) -> None:
        _, call, at_ns, step, accepted, layout, n = METRIC_HEAD.unpack_from(body)
        self._account(accepted, n)
        encoded = self._encoded.get(layout)
        if encoded is None:
            names = self.layouts.get(layout)
            if names is None or len(names) != n:  # its LAYOUT record was damaged
                self.points_lost += n
                return
            encoded = self._encoded[layout] = self._index(names)
        self._calls.append((call, step, at_ns // 1_000_000, n))
        self._name_idx.append(encoded)
        self._values.append(body[METRIC_HEAD.size :])
        self.points += n

    def _add_wide(self, wide: dict[str, Any]) -> None:
        names, values = wide["names"], wide["values"]
        self._account(wide["accepted"], len(names))
        self._calls.append((wide["call"], wide["step"], wide["at_ns"] // 1_000_000, len(names)))
        self._name_idx.append(self._index(names))
        self._values.append(struct.pack(f"<{len(values)}d", *values))
        self.points += len(names)

    def _account(self, accepted: int, n: int) -> None:
        # The running total in each record tells exactly how many points damage has swallowed.
        if accepted - n > self.accepted:
            self.points_lost += accepted - n - self.accepted
        self.accepted = accepted
        if not self._calls:
            self._points_before = accepted - n

    def _index(self, names: Sequence[str]) -> bytes:
        table = self._names
        return b"".join(encode_long(table.setdefault(name, len(table))) for name in names)

    def take(self, meta: Meta, batch_seq: int) -> bytes:
        """Return the collected MetricBatch as an Avro value (empty without points) and reset."""
        value = b""
        if self._calls:
            seq, step, at_ms, n = (list(column) for column in zip(*self._calls, strict=True))
            parts = MetricParts(
                project=meta.project,
                run_id=meta.run_id,
                attempt=meta.attempt,
                writer=meta.writer,
                rank=meta.rank,
                batch_seq=batch_seq,
                points_before=self._points_before,
                names=list(self._names),
                call_seq=seq,
                call_step=step,
                call_at_ms=at_ms,
                call_n=n,
                name_idx_bytes=b"".join(self._name_idx),
                points=self.points,
                value_bytes=b"".join(self._values),
            )
            value = codec.encode_metric_parts(parts)
        for collected in (self._names, self._encoded, self._calls, self._name_idx, self._values):
            collected.clear()
        self.points = self.points_lost = 0
        return value


def event_value(record: SpoolRecord, meta: Meta) -> tuple[str, bytes]:
    """Encode a JSON record as (kind, Avro value). Raises: SchemaError when it fits no event."""
    kind = JSON_KINDS.get(record.kind)
    if kind is None:
        raise SchemaError(
            f"record kind {record.kind} is unknown; was it written by a newer runwire?"
        )
    try:
        fields: dict[str, Any] = {
            "project": meta.project,
            "run_id": meta.run_id,
            "attempt": meta.attempt,
            "writer": meta.writer,
            "rank": meta.rank,
            "seq": record.seq,
            **json.loads(record.body[8:]),
        }
        event_class: Any = EVENTS[kind]
        return kind, codec.encode(event_class(**fields))
    except (TypeError, ValueError) as error:
        raise SchemaError(f"a {kind} record does not fit its schema: {error}") from error
