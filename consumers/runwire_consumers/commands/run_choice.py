"""The choice of runs by their whole ids, and the question before a deletion."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from runwire_consumers.clickhouse.tombstones import Tombstone


@dataclass(frozen=True, slots=True)
class ChosenRun:
    """A run that was named; one that is hidden has its tombstone as `mark`."""

    project: str
    run_id: str
    label: str
    mark: Tombstone | None = None


def choose_run(client: Client, run_id: str, project: str | None) -> ChosenRun:
    """Return the run with exactly this id: a prefix could mean a neighbour.

    Raises: StackError when there is none, or one in each of several projects.
    """
    from runwire_consumers.clickhouse.tombstones import find_tombstones, literal
    from runwire_consumers.stack.state import StackError

    sql = (
        "SELECT project, run_id, name, status, last_step FROM v_runs "
        f"WHERE run_id = {literal(run_id)}"
    )
    if project:
        sql += f" AND project = {literal(project)}"
    found = [_visible(row) for row in client.query(sql).named_results()]
    if not found:
        marks = find_tombstones(client, run_id, project or None)
        found = [ChosenRun(mark.project, run_id, run_id, mark) for mark in marks]
    if not found:
        raise StackError(f"no run has the id {run_id!r}; `runwire runs` lists them")
    if len(found) > 1:
        projects = ", ".join(sorted(chosen.project for chosen in found))
        raise StackError(f"{run_id!r} exists in several projects ({projects}); give --project", 2)
    return found[0]


def _visible(row: dict[str, object]) -> ChosenRun:
    step = "no step" if row["last_step"] is None else f"step {row['last_step']}"
    label = f"{row['run_id']} ({row['name'] or 'no name'}, {row['status']}, {step})"
    return ChosenRun(str(row["project"]), str(row["run_id"]), label)


def confirm(question: str) -> bool:
    """Ask for a yes. Raises: StackError when stdin is no terminal."""
    from runwire_consumers.stack.state import StackError

    if not sys.stdin.isatty():
        raise StackError("deleting needs a yes: stdin is no terminal, so give --yes", 2)
    print(f"{question} [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
