"""Runs, their params, metrics and completeness, as the views tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runwire_query.connection import Reader
from runwire_query.errors import QueryError
from runwire_query.text.words import printable

CURVE_POINTS = 400


def list_runs(
    reader: Reader, *, project: str | None = None, status: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """The newest runs."""
    wanted = {"project": project, "status": status}
    conditions = [f"{name} = {{{name}:String}}" for name, value in wanted.items() if value]
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    return reader.rows(
        f"SELECT run_id, name, project, status, status_reason, last_step, started_at, finished_at "
        f"FROM v_runs {where}ORDER BY started_at DESC LIMIT {{limit:UInt32}}",
        {**{name: value for name, value in wanted.items() if value}, "limit": limit},
    )


def find_run(reader: Reader, wanted: str, project: str | None = None) -> dict[str, Any]:
    """The one run with this id, this name, or the only one whose id starts so.

    Raises: QueryError that lists the candidates.
    """
    conditions = "(run_id = {wanted:String} OR name = {wanted:String}"
    conditions += " OR startsWith(run_id, {wanted:String}))"
    if project:
        conditions += " AND project = {project:String}"
    found = reader.rows(
        f"SELECT * FROM v_runs WHERE {conditions} ORDER BY started_at DESC LIMIT 50",
        {"wanted": wanted, "project": project or ""},
    )
    for matches in (
        [row for row in found if row["run_id"] == wanted],
        [row for row in found if row["name"] == wanted],
        found,
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise QueryError(_ambiguous(wanted, matches))
    raise QueryError(f"no run has the id or name {wanted!r}; `runwire runs` lists them")


def _ambiguous(wanted: str, matches: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{wanted!r} fits {len(matches)} runs; give more of the id, or --project:"]
    lines += [
        printable(f"  {row['run_id']}  {row['project']}  {row['name'] or '-'}  {row['status']}")
        for row in matches[:10]
    ]
    return "\n".join(lines)


def _of(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"project": run["project"], "run_id": run["run_id"]}


OF_RUN = "project = {project:String} AND run_id = {run_id:String}"


def status(reader: Reader, run: Mapping[str, Any]) -> str:
    """The run's status word now; "deleted" when it is no longer listed."""
    rows = reader.rows(f"SELECT status FROM v_runs WHERE {OF_RUN}", _of(run))
    return str(rows[0]["status"]) if rows else "deleted"


def params(reader: Reader, run: Mapping[str, Any]) -> dict[str, str]:
    """Key -> JSON text."""
    sql = f"SELECT key, value FROM v_params WHERE {OF_RUN} ORDER BY key"
    return {row["key"]: row["value"] for row in reader.rows(sql, _of(run))}


def latest(reader: Reader, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per metric and rank: last value and its extremes."""
    sql = (
        "SELECT metric, rank, step, at, value, min, max FROM v_latest "
        f"WHERE {OF_RUN} ORDER BY metric, rank"
    )
    return reader.rows(sql, _of(run))


def curve(
    reader: Reader, run: Mapping[str, Any], metric: str, rank: int
) -> list[tuple[float, float]]:
    """(step, value) of one series, averaged into at most `CURVE_POINTS` buckets."""
    sql = (
        "WITH (SELECT (min(step), max(step)) FROM v_series "
        f"WHERE {OF_RUN} AND metric = {{metric:String}} AND rank = {{rank:Int64}}) AS ends "
        "SELECT min(step) AS first_step, avgIf(value, isFinite(value)) AS mean FROM v_series "
        f"WHERE {OF_RUN} AND metric = {{metric:String}} AND rank = {{rank:Int64}} "
        "GROUP BY intDiv((step - ends.1) * {points:UInt32}, ends.2 - ends.1 + 1) "
        "ORDER BY first_step"
    )
    wanted = {**_of(run), "metric": metric, "rank": rank, "points": CURVE_POINTS}
    return [(row["first_step"], row["mean"]) for row in reader.rows(sql, wanted)]


def completeness(reader: Reader, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per rank."""
    sql = (
        "SELECT rank, accepted, stored, dead_lettered, dropped, pending "
        f"FROM v_completeness WHERE {OF_RUN} ORDER BY rank"
    )
    return reader.rows(sql, _of(run))
