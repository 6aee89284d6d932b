"""Checkpoints as text: the list of one run; and its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from runwire_query.api.checkpoints import CheckpointRow
from runwire_query.text import words
from runwire_query.text.table import format_table, terminal_width

__all__ = ["as_table", "row_json"]

METRICS_MAX: Final = 3  # a line; --json has all


def as_table(rows: Sequence[CheckpointRow]) -> str:
    """Return the list for people; the attempt only when there are several."""
    now = datetime.now(UTC)
    has_attempts = len({row.attempt for row in rows}) > 1
    cells = [
        (
            str(row.step),
            *([str(row.attempt or "?")] if has_attempts else []),
            _marks(row),
            f"{row.state}: {row.reason}" if row.reason else row.state,
            row.kind,
            words.byte_size(row.bytes),
            _metrics(row.metrics),
            f"{words.age(row.saved_at, now)} ago",
        )
        for row in rows
    ]
    attempt, to_right = (["attempt"], [True]) if has_attempts else ([], [])
    header = ("step", *attempt, "mark", "state", "kind", "size", "metrics", "saved")
    right = (True, *to_right, False, False, False, True, False, True)
    return format_table(header, cells, right=right, width=terminal_width())


def row_json(row: CheckpointRow) -> dict[str, Any]:
    """Return one row as JSON values; JSON has no NaN, so that values without a number are words."""
    metrics = {
        name: value if math.isfinite(value) else words.number(value)
        for name, value in row.metrics.items()
    }
    return {**asdict(row), "metrics": metrics, "saved_at": row.saved_at.isoformat()}


def _marks(row: CheckpointRow) -> str:
    marks = ["best"] * row.is_best + ["latest"] * row.is_latest
    if row.state == "complete" and not row.is_good:
        marks.append("not finite")
    return ",".join(marks) or "-"


def _metrics(metrics: Mapping[str, float]) -> str:
    shown = [
        f"{name}={words.number(value)}" for name, value in sorted(metrics.items())[:METRICS_MAX]
    ]
    more = len(metrics) - len(shown)
    return " ".join(shown) + (f" +{more}" if more > 0 else "") if shown else "-"
