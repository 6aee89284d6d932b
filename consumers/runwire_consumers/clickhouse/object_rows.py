"""Turn the events of artifacts and checkpoints into Native blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runwire_consumers.clickhouse import native
from runwire_consumers.clickhouse.rows import event_columns
from runwire_schemas.events import ArtifactEvent, CheckpointEvent


def artifact_rows(events: Sequence[ArtifactEvent], append_at_ns: int) -> bytes:
    """One row per event for `artifacts`; the manifest stays in the store."""
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
    """One row per event for `checkpoints`."""
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
