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
    mark: Tombstone | None = None


def choose_run(client: Client, run_id: str, project: str | None) -> ChosenRun:
    """Return the run with exactly this id: a prefix could mean a neighbour.

    Raises: StackError when there is none, or one in each of several projects.
    """
    from runwire_consumers.clickhouse.tombstones import find_tombstones, literal
    from runwire_consumers.stack.state import StackError

    where = f"run_id = {literal(run_id)}"
    if project:
        where += f" AND project = {literal(project)}"
    # The table: a view of runs looks at every run to say which of them are lost.
    rows = client.query(
        f"SELECT DISTINCT project FROM attempts WHERE {where} "
        "AND (project, run_id) NOT IN (SELECT project, run_id FROM deleted_runs)"
    ).result_rows
    found = [ChosenRun(name, run_id) for (name,) in rows]
    if not found:
        marks = find_tombstones(client, run_id, project or None)
        found = [ChosenRun(mark.project, run_id, mark) for mark in marks]
    if not found:
        raise StackError(f"no run has the id {run_id!r}; `runwire runs` lists them")
    if len(found) > 1:
        projects = ", ".join(sorted(chosen.project for chosen in found))
        raise StackError(f"{run_id!r} exists in several projects ({projects}); give --project", 2)
    return found[0]


def label_run(client: Client, chosen: ChosenRun) -> str:
    """Return id, name, state, step and project of a run, for a question."""
    from runwire_consumers.clickhouse.tombstones import of_run

    if chosen.mark is not None:
        return f"{chosen.run_id} (archived) of project {chosen.project}"
    sql = (
        f"SELECT name, status, last_step FROM v_runs WHERE {of_run(chosen.project, chosen.run_id)}"
    )
    ((name, status, last_step),) = client.query(sql).result_rows
    step = "no step" if last_step is None else f"step {last_step}"
    return f"{chosen.run_id} ({name or 'no name'}, {status}, {step}) of project {chosen.project}"


def confirm(question: str) -> bool:
    """Ask for a yes. Raises: StackError when stdin is no terminal."""
    from runwire_consumers.stack.state import StackError

    if not sys.stdin.isatty():
        raise StackError("deleting needs a yes: stdin is no terminal, so give --yes", 2)
    print(f"{question} [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
