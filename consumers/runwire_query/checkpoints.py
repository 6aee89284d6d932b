"""Checkpoints as `runwire checkpoints` shows them: those in the store, and those on their way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runwire_query import lineage
from runwire_query.connection import Reader, connect
from runwire_query.errors import QueryError
from runwire_query.runs import find_run as find_in_views
from runwire_query.storage import chosen_project, project_of_run
from runwire_query.text import words
from runwire_query.text.table import format_table, terminal_width
from runwire_schemas.identity import attempt_key

if TYPE_CHECKING:
    from runwire_store.catalog import Catalog
    from runwire_store.checkpoints import CheckpointView

METRICS_MAX = 3  # a line; --json has all


def find_run(
    catalog: Catalog, directory: str | None, wanted: str, named_project: str | None
) -> tuple[str, str]:
    """Project and id of a run: by id from the store, by name or beginning from the views.

    Raises: QueryError.
    """
    project = chosen_project(named_project)
    found = project_of_run(catalog, wanted, project)
    if found is not None:
        return found, wanted
    try:
        reader = connect(directory)
    except (QueryError, ModuleNotFoundError):
        where = catalog.store.uri + (f", project {project!r}" if project else "")
        raise QueryError(
            f"no checkpoint of a run {wanted!r} is in {where}; "
            "while no ClickHouse answers, give the whole run id"
        ) from None
    try:
        row = find_in_views(reader, wanted, project)
    finally:
        reader.close()
    return str(row["project"]), str(row["run_id"])


def listed(
    catalog: Catalog, directory: str | None, project: str, run_id: str
) -> list[dict[str, Any]]:
    """Checkpoints, oldest first, and those that ClickHouse knows to be on their way.

    Attempts have the numbers of the views. Without those they are counted among what is stored, so
    one that stored nothing is not counted; None is one that the views do not know (yet).
    """
    from runwire_store.retention import find_checkpoint

    known = catalog.checkpoints(project, run_id)
    best, latest = find_checkpoint(known, "best"), find_checkpoint(known, "latest")

    def ask(reader: Reader) -> tuple[dict[int, int], list[dict[str, Any]]]:
        waiting = lineage.unfinished_checkpoints(reader, project, run_id)
        return lineage.attempts(reader, project, run_id), waiting

    answer = lineage.asked(
        directory, ask, lost="checkpoints that are still on their way and the numbers of attempts"
    )
    numbers, waiting = (_counted(known), []) if answer is None else answer
    rows = [
        {
            **_row(view),
            "attempt": numbers.get(attempt_key(view.attempt)),
            "is_best": view is best,
            "is_latest": view is latest,
        }
        for view in known
    ]
    there = {(row["step"], row["attempt"]) for row in rows}
    on_their_way = [_waiting(row) for row in waiting]
    return rows + [row for row in on_their_way if (row["step"], row["attempt"]) not in there]


def _counted(known: Sequence[CheckpointView]) -> dict[int, int]:
    keys = dict.fromkeys(attempt_key(view.attempt) for view in known)
    return {key: number for number, key in enumerate(keys, start=1)}


def _row(view: CheckpointView) -> dict[str, Any]:
    parts = f"{len(view.manifests)} of {view.world_size} parts"
    return {
        "step": view.step,
        "attempt_id": view.attempt,
        "state": "complete" if view.is_complete else "pending",
        "reason": None if view.is_complete else parts,
        "is_good": view.is_good,
        "kind": view.kind,
        "world_size": view.world_size,
        "metrics": {name: _json(value) for name, value in view.metrics.items()},
        "bytes": view.size,
        "files": sum(len(manifest.files) for manifest in view.manifests.values()),
        "saved_at": words.of_ns(view.saved_at_ns).isoformat(),
        "manifests": [view.manifests[rank].key for rank in sorted(view.manifests)],
    }


def _waiting(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "attempt": row["attempt"] or None,
        "attempt_id": None,
        "is_good": False,
        "is_best": False,
        "is_latest": False,
        "metrics": {name: _json(value) for name, value in row["metrics"].items()},
        "files": None,
        "saved_at": words.as_utc(row["saved_at"]).isoformat(),
        "manifests": [],
    }


def _json(value: float) -> float | str:
    """JSON knows no NaN."""
    return value if value - value == 0 else words.number(value)


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns for people; the attempt only where there are several."""
    now = datetime.now(UTC)
    many = len({row["attempt"] for row in rows}) > 1
    cells = [
        (
            str(row["step"]),
            *([str(row["attempt"] or "?")] if many else []),
            _marks(row),
            f"{row['state']}: {row['reason']}" if row["reason"] else row["state"],
            row["kind"],
            words.byte_size(row["bytes"]),
            _metrics(row["metrics"]),
            f"{words.age(datetime.fromisoformat(row['saved_at']), now)} ago",
        )
        for row in rows
    ]
    attempt, to_right = (["attempt"], [True]) if many else ([], [])
    header = ("step", *attempt, "mark", "state", "kind", "size", "metrics", "saved")
    right = (True, *to_right, False, False, False, True, False, True)
    return format_table(header, cells, right=right, width=terminal_width())


def _marks(row: Mapping[str, Any]) -> str:
    marks = [word for word in ("best", "latest") if row[f"is_{word}"]]
    if row["state"] == "complete" and not row["is_good"]:
        marks.append("not finite")
    return ",".join(marks) or "-"


def _metrics(metrics: Mapping[str, Any]) -> str:
    shown = [
        f"{name}={value if isinstance(value, str) else words.number(value)}"
        for name, value in sorted(metrics.items())[:METRICS_MAX]
    ]
    more = len(metrics) - len(shown)
    return " ".join(shown) + (f" +{more}" if more > 0 else "") if shown else "-"
