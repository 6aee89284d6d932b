"""Metrics of a run: latest values, curves, and how many of its points are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from runwire_query.api.runs import OF_RUN, RunRef
from runwire_query.connection import Reader, columns_of

__all__ = [
    "Completeness",
    "CurvePoint",
    "LatestMetric",
    "read_completeness",
    "read_curves",
    "read_latest",
]

CURVE_POINTS_MAX: Final = 400


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


def read_curves(
    reader: Reader, run: RunRef, series: Sequence[LatestMetric]
) -> list[list[CurvePoint]]:
    """Return the curve of each series in the order of steps, all read by one query.

    Shapes: at most `CURVE_POINTS_MAX` buckets of equal width in each. Raises: QueryError.
    """
    if not series:
        return []
    # Digests, because a name may be too long for the URL that carries parameters.
    places = [(_digest(one.metric), one.rank) for one in series]
    of_names = f"{OF_RUN} AND has({{names:Array(String)}}, hex(SHA256(metric)))"
    ends = f"SELECT metric, rank, first_step, last_step FROM v_latest WHERE {of_names}"
    rows = reader.rows(
        "SELECT hex(SHA256(metric)) AS name, rank, "
        "groupArray((first_step, mean)) AS points FROM ("
        "SELECT s.metric AS metric, s.rank AS rank, min(s.step) AS first_step, "
        "avgIf(s.value, isFinite(s.value)) AS mean "
        f"FROM (SELECT metric, rank, step, value FROM v_series WHERE {OF_RUN} "
        f"AND metric IN (SELECT metric FROM ({ends})) AND has({{ranks:Array(Int32)}}, rank)) AS s "
        f"INNER JOIN ({ends}) AS e ON e.metric = s.metric AND e.rank = s.rank "
        # Steps may span all 64 bits: only an unsigned number holds that, and only a float more.
        "GROUP BY metric, rank, least(floor(toFloat64(toUInt64(s.step - e.first_step)) "
        "* {points:UInt32} / (toFloat64(toUInt64(e.last_step - e.first_step)) + 1)), "
        "{points:UInt32} - 1.) "
        "ORDER BY first_step) GROUP BY metric, rank",
        run.parameters(
            names=sorted({name for name, _ in places}),
            ranks=sorted({rank for _, rank in places}),
            points=CURVE_POINTS_MAX,
        ),
    )
    found = {(row["name"], row["rank"]): row["points"] for row in rows}
    return [[CurvePoint(*point) for point in found.get(place, ())] for place in places]


def _digest(metric: str) -> str:
    return sha256(metric.encode("utf-8", "surrogatepass")).hexdigest().upper()


def read_completeness(reader: Reader, run: RunRef) -> list[Completeness]:
    """Return one row per rank. Raises: QueryError."""
    return reader.read(
        Completeness,
        f"SELECT {columns_of(Completeness)} FROM v_completeness WHERE {OF_RUN} ORDER BY rank",
        run.parameters(),
    )
