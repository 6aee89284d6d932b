"""Runs and their parameters, as the views hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from runwire_query.connection import Reader, columns_of, connect, has_address
from runwire_query.errors import QueryError, printable

__all__ = [
    "OF_RUN",
    "RunDetail",
    "RunRef",
    "RunRow",
    "find_run",
    "list_runs",
    "look_up_run",
    "read_params",
    "read_status",
]

OF_RUN: Final = "project = {project:String} AND run_id = {run_id:String}"
"""The condition of one run, with the parameters of `RunRef.parameters`: the key of every table."""
_CANDIDATES_MAX: Final = 50
_CANDIDATES_SHOWN: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRef:
    """The name of one run: ids are unique within a project."""

    project: str
    run_id: str

    def parameters(self, **more: Any) -> dict[str, Any]:
        """Return the query parameters of `OF_RUN`, and more."""
        return {"project": self.project, "run_id": self.run_id, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run in a list."""

    run_id: str
    name: str | None
    project: str
    status: str
    status_reason: str | None
    last_step: int | None
    started_at: datetime | None
    finished_at: datetime | None
    last_seen_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """One run with every column of `v_runs`."""

    run_id: str
    project: str
    name: str | None
    group: str | None
    job_type: str | None
    status: str
    status_reason: str | None
    attempt: int
    world_size: int | None
    tags: Mapping[str, str]
    started_at: datetime | None
    finished_at: datetime | None
    last_step: int | None
    last_progress_at: datetime | None
    last_seen_at: datetime | None
    parent_run_id: str | None
    first_started_at: datetime | None
    resumed_from_step: int | None
    exit_code: int | None
    writers: int
    notes: str | None
    environment: Mapping[str, str]
    summary: str | None
    metric_defs: str | None
    second_writers: int
    dropped: Mapping[str, int]

    @property
    def ref(self) -> RunRef:
        """The run's name in further questions."""
        return RunRef(project=self.project, run_id=self.run_id)


def list_runs(
    reader: Reader, *, project: str | None = None, status: str | None = None, limit: int = 50
) -> list[RunRow]:
    """Return the newest runs, newest first. Raises: QueryError."""
    filters = {n: v for n, v in {"project": project, "status": status}.items() if v}
    conditions = " AND ".join(f"{name} = {{{name}:String}}" for name in filters) or "true"
    return reader.read(
        RunRow,
        f"SELECT {columns_of(RunRow)} FROM v_runs WHERE {conditions} "
        "ORDER BY started_at DESC LIMIT {limit:UInt32}",
        {**filters, "limit": limit},
    )


def find_run(reader: Reader, wanted: str, project: str | None = None) -> RunDetail:
    """Return the one run with this id, this name, or the only one whose id starts with it.

    Raises: QueryError that lists the candidates when there are several.
    """
    conditions = "(run_id = {wanted:String} OR name = {wanted:String}"
    conditions += " OR startsWith(run_id, {wanted:String}))"
    if project:
        conditions += " AND project = {project:String}"
    candidates = reader.read(
        RunDetail,
        f"SELECT {columns_of(RunDetail)} FROM v_runs WHERE {conditions} "
        f"ORDER BY started_at DESC LIMIT {_CANDIDATES_MAX}",
        {"wanted": wanted, "project": project or ""},
    )
    for matches in (
        [run for run in candidates if run.run_id == wanted],
        [run for run in candidates if run.name == wanted],
        candidates,
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise QueryError(_ambiguous(wanted, matches))
    raise QueryError(f"no run has the id or name {wanted!r}; `runwire runs` lists them")


def read_status(reader: Reader, run: RunRef) -> str:
    """Return the run's status word now; "deleted" when it is no longer listed."""
    rows = reader.rows(f"SELECT status FROM v_runs WHERE {OF_RUN}", run.parameters())
    return str(rows[0]["status"]) if rows else "deleted"


def read_params(reader: Reader, run: RunRef) -> dict[str, str]:
    """Return the JSON text of each parameter, sorted by key."""
    sql = f"SELECT key, value FROM v_params WHERE {OF_RUN} ORDER BY key"
    return {row["key"]: row["value"] for row in reader.rows(sql, run.parameters())}


def _ambiguous(wanted: str, matches: Sequence[RunDetail]) -> str:
    lines = [f"{wanted!r} fits {len(matches)} runs; give more of the id, or --project:"]
    lines += [
        printable(f"  {run.run_id}  {run.project}  {run.name or '-'}  {run.status}")
        for run in matches[:_CANDIDATES_SHOWN]
    ]
    return "\n".join(lines)


def look_up_run(root: Path, project: str, run_id: str) -> tuple[bool, int | None] | None:
    """Return whether ClickHouse knows a run, and its last step; None where none is configured.

    The SDK asks through the entry-point group `runwire.lookup`. Raises: QueryError.
    """
    if not has_address(root):
        return None
    reader = connect(str(root))
    try:
        sql = f"SELECT last_step FROM v_runs WHERE {OF_RUN}"
        rows = reader.rows(sql, RunRef(project=project, run_id=run_id).parameters())
    finally:
        reader.close()
    steps = [int(row["last_step"]) for row in rows if row["last_step"] is not None]
    return bool(rows), max(steps, default=None)
