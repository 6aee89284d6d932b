"""Metrics of a run: latest values, curves, and how many of its points are stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from runwire_query.api.runs import OF_RUN, RunRef
from runwire_query.connection import Reader, columns_of

__all__ = [
    "Completeness",
    "CurvePoint",
    "LatestMetric",
    "read_completeness",
    "read_curve",
    "read_latest",
]

CURVE_POINTS_MAX: Final = 400
# Of a longer name only the beginning is sent: the URL that carries parameters may not hold it all.
_NAME_LETTERS_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestMetric:
    """The newest point of one metric and rank, and the extremes of its finite values."""

    metric: str
    rank: int
    step: int
    at: datetime
    value: float
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The mean of the finite values in one bucket of steps; None without any."""

    step: int
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completeness:
    """Points of one rank: accepted = stored + dead-lettered + pending + dropped after accepting."""

    rank: int
    accepted: int
    stored: int
    dead_lettered: int
    dropped: int
    pending: int


def read_latest(reader: Reader, run: RunRef) -> list[LatestMetric]:
    """Return one row per metric and rank, sorted by both. Raises: QueryError."""
    return reader.read(
        LatestMetric,
        f"SELECT {columns_of(LatestMetric)} FROM v_latest WHERE {OF_RUN} ORDER BY metric, rank",
        run.parameters(),
    )


def read_curve(reader: Reader, run: RunRef, metric: str, rank: int) -> list[CurvePoint]:
    """Return one series in the order of steps.

    Shapes: at most `CURVE_POINTS_MAX` buckets of equal width. Raises: QueryError.
    """
    of_metric, name = _of_metric(metric)
    of_series = f"{OF_RUN} AND {of_metric} AND rank = {{rank:Int64}}"
    rows = reader.rows(
        f"WITH (SELECT (min(step), max(step)) FROM v_series WHERE {of_series}) AS ends "
        "SELECT min(step) AS first_step, avgIf(value, isFinite(value)) AS mean "
        f"FROM v_series WHERE {of_series} "
        "GROUP BY intDiv((step - ends.1) * {points:UInt32}, ends.2 - ends.1 + 1) "
        "ORDER BY first_step",
        run.parameters(**name, rank=rank, points=CURVE_POINTS_MAX),
    )
    return [CurvePoint(row["first_step"], row["mean"]) for row in rows]


def read_completeness(reader: Reader, run: RunRef) -> list[Completeness]:
    """Return one row per rank. Raises: QueryError."""
    return reader.read(
        Completeness,
        f"SELECT {columns_of(Completeness)} FROM v_completeness WHERE {OF_RUN} ORDER BY rank",
        run.parameters(),
    )


def _of_metric(name: str) -> tuple[str, dict[str, Any]]:
    """Return the condition of one metric and its parameters."""
    if len(name) <= _NAME_LETTERS_MAX:
        return "metric = {metric:String}", {"metric": name}
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return (
        "startsWith(metric, {metric:String}) AND lower(hex(SHA256(metric))) = {digest:String}",
        {"metric": name[:_NAME_LETTERS_MAX], "digest": digest},
    )
