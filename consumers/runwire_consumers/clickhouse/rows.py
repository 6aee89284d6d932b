"""Native blocks of the tables of events and dead letters, built from the events of a batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from runwire_consumers.clickhouse import native
from runwire_consumers.clickhouse.native import Array, Column
from runwire_schemas import identity
from runwire_schemas.events import (
    ArtifactEvent,
    CheckpointEvent,
    DeadLetter,
    Event,
    Heartbeat,
    LogEvent,
    ParamEvent,
    RunEvent,
)

K = TypeVar("K", bound=Hashable)

# Bytes of a dead letter that its table keeps; the dead-letter file or topic keeps all.
DEAD_VALUE_BYTES_MAX = 64 * 1024

# A worker sees the same few writers and attempts all day.
writer_key = lru_cache(65_536)(identity.writer_key)
attempt_key = lru_cache(65_536)(identity.attempt_key)


def run_rows(events: Sequence[RunEvent], append_at_ns: int) -> bytes:
    """Build the block for `run_events`: one row per event."""
    texts = (
        *("status", "status_reason", "name", "group", "job_type", "notes", "parent_run_id"),
        *("summary", "metric_defs"),
    )
    numbers = (
        *("exit_code", "world_size", "last_step", "resumed_from_step", "accepted"),
        "attempt_number",
    )
    columns = event_columns(events, append_at_ns)
    columns += [
        native.strings("attempt_name", [e.attempt for e in events]),
        native.strings("writer_name", [e.writer for e in events]),
        native.strings("reporter", [e.reporter or "" for e in events]),
        native.strings("first_attempt", [e.first_attempt or "" for e in events]),
        native.strings("event", [e.event for e in events]),
        native.numbers("has_tags", "Bool", [e.tags is not None for e in events]),
        native.string_maps("tags", [e.tags or {} for e in events]),
        native.numbers("has_dropped", "Bool", [e.dropped is not None for e in events]),
        native.count_maps("dropped", [e.dropped or {} for e in events]),
        native.numbers("has_environment", "Bool", [e.environment is not None for e in events]),
        native.string_maps("environment", [e.environment or {} for e in events]),
    ]
    columns += [native.nullable_strings(f, [getattr(e, f) for e in events]) for f in texts]
    columns += [
        native.nullable_numbers(f, "Int64", [getattr(e, f) for e in events]) for f in numbers
    ]
    return native.block(columns)


def param_rows(events: Sequence[ParamEvent], append_at_ns: int) -> bytes:
    """Build the block for `params`: one row per event."""
    columns = event_columns(events, append_at_ns)
    columns += [native.strings(f, [getattr(e, f) for e in events]) for f in ("key", "value")]
    return native.block(columns)


def heartbeat_rows(events: Sequence[Heartbeat], append_at_ns: int) -> bytes:
    """Build the block for `heartbeats`: one row per event."""
    progress = [e.last_progress_at_ns for e in events]
    columns = event_columns(events, append_at_ns)
    columns += [
        native.strings("writer_name", [e.writer for e in events]),
        native.nullable_numbers("last_step", "Int64", [e.last_step for e in events]),
        native.nullable_numbers(
            "last_progress_at",
            "DateTime64(3)",
            [None if at is None else at // 1_000_000 for at in progress],
        ),
        native.strings("phase", [e.phase for e in events]),
        native.numbers("accepted", "Int64", [e.accepted for e in events]),
        native.count_maps("dropped", [e.dropped for e in events]),
        native.strings("host", [e.host for e in events]),
        native.numbers("pid", "Int64", [e.pid for e in events]),
        native.numbers("spool_bytes", "Int64", [e.spool_bytes for e in events]),
    ]
    return native.block(columns)


def log_rows(events: Sequence[LogEvent], append_at_ns: int) -> bytes:
    """Build the block for `logs`: one row per event."""
    texts = ("stream", "name", "level", "text")
    columns = event_columns(events, append_at_ns)
    columns += [native.nullable_numbers("step", "Int64", [e.step for e in events])]
    columns += [native.strings(f, [getattr(e, f) for e in events]) for f in texts]
    return native.block(columns)


def dead_rows(letters: Sequence[DeadLetter]) -> bytes:
    """Build the block for `dead_letters`: one row per letter, with the beginning of its bytes."""
    columns = _run_columns(letters)
    columns += [
        native.numbers("writer", "UInt64", [writer_key(writer_of(e)) for e in letters]),
        instants("at", [e.at_ns for e in letters]),
        native.strings("key", [e.key for e in letters]),
        native.strings("value", [e.value[:DEAD_VALUE_BYTES_MAX] for e in letters]),
        # Any client may write a letter, also one with a negative size.
        native.numbers("value_bytes", "UInt64", [max(0, e.whole_bytes) for e in letters]),
    ]
    texts, numbers = ("id", "stream", "partition", "reason"), ("offset", "last_offset", "points")
    columns += [native.strings(f, [getattr(e, f) for e in letters]) for f in texts]
    columns += [native.numbers(f, "Int64", [getattr(e, f) for e in letters]) for f in numbers]
    return native.block(columns)


def writer_of(letter: DeadLetter) -> str:
    """Return the writer of the record: its Kafka key, or the first part of a spool partition."""
    return letter.key.decode(errors="replace") or letter.partition.split("/", 1)[0]


def event_columns(
    events: Sequence[
        RunEvent | ParamEvent | Heartbeat | LogEvent | ArtifactEvent | CheckpointEvent
    ],
    append_at_ns: int,
) -> list[Column]:
    """Encode the columns that all event tables begin with: run, writer, and times."""
    return [
        *_run_columns(events),
        native.numbers("rank", "Int64", [e.rank for e in events]),
        native.numbers("attempt", "UInt64", [attempt_key(e.attempt) for e in events]),
        native.numbers("writer", "UInt64", [writer_key(e.writer) for e in events]),
        native.numbers("seq", "Int64", [e.seq for e in events]),
        instants("at", [e.at_ns for e in events]),
        instants("append_at", [append_at_ns] * len(events)),
    ]


def _run_columns(events: Sequence[Event]) -> list[Column]:
    """Encode project and run of each event."""
    projects, project = dictionary([e.project for e in events])
    ids, run_id = dictionary([e.run_id for e in events])
    return [
        native.low_cardinality("project", projects, project),
        native.low_cardinality("run_id", ids, run_id),
    ]


def dictionary(values: Sequence[K]) -> tuple[list[K], Array]:
    """Return the distinct values, and the position of each value among them.

    Shapes: the positions are [values].
    """
    places: dict[K, int] = {}
    index = [places.setdefault(value, len(places)) for value in values]
    return list(places), np.array(index, "i8")


def instants(name: str, at_ns: Sequence[int]) -> Column:
    """Encode instants as milliseconds. Units: nanoseconds since the epoch."""
    return native.numbers(name, "DateTime64(3)", [at // 1_000_000 for at in at_ns])


def artifact_rows(events: Sequence[ArtifactEvent], append_at_ns: int) -> bytes:
    """Build the block for `artifacts`: one row per event; the manifest stays in the store."""
    texts = ("artifact", "event", "name", "type", "sha256", "uri", "route")
    columns = event_columns(events, append_at_ns)
    columns += [native.strings(f, [getattr(e, f) for e in events]) for f in texts]
    columns += [
        native.numbers("has_aliases", "Bool", [e.aliases is not None for e in events]),
        native.string_arrays("aliases", [e.aliases or [] for e in events]),
        native.strings("metadata", [e.metadata or "" for e in events]),
        native.numbers("files", "Int64", [e.files for e in events]),
        native.numbers("bytes", "Int64", [e.bytes for e in events]),
        native.nullable_numbers("version_at_ns", "Int64", [e.version_at_ns for e in events]),
        native.nullable_strings("reason", [e.reason for e in events]),
        native.nullable_floats("duration_s", _doubles([e.duration_s for e in events])),
    ]
    return native.block(columns)


def checkpoint_rows(events: Sequence[CheckpointEvent], append_at_ns: int) -> bytes:
    """Build the block for `checkpoints`: one row per event."""
    columns = event_columns(events, append_at_ns)
    for field in ("artifact", "kind", "sha256", "uri"):
        columns.append(native.strings(field, [getattr(e, field) for e in events]))
    for field in ("step", "world_size", "bytes", "raw_bytes"):
        columns.append(native.numbers(field, "Int64", [getattr(e, field) for e in events]))
    for field in ("duration_s", "blocked_s"):
        columns.append(native.numbers(field, "Float64", [getattr(e, field) for e in events]))
    columns += [
        native.float_maps("metrics", [e.metrics for e in events]),
        native.numbers("is_best", "Bool", [e.is_best for e in events]),
    ]
    return native.block(columns)


def _doubles(values: Sequence[float | None]) -> native.Array:
    return np.array([np.nan if value is None else value for value in values], "<f8")


EVENT_TABLES: Mapping[str, tuple[str, Callable[[Any, int], bytes]]] = {
    "run": ("run_events", run_rows),
    "param": ("params", param_rows),
    "heartbeat": ("heartbeats", heartbeat_rows),
    "log": ("logs", log_rows),
    "checkpoint": ("checkpoints", checkpoint_rows),
    "artifact": ("artifacts", artifact_rows),
}
"""Table and block builder of each event kind."""
