"""Which run made an artifact and which used it, and what is still on its way, from the views.

The store is whole without them: where ClickHouse is not reachable, lists say so and go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from runwire_query.connection import Reader, connect
from runwire_query.errors import QueryError
from runwire_query.runs import OF_RUN

T = TypeVar("T")


def asked(directory: str | None, ask: Callable[[Reader], T], *, lost: str) -> T | None:
    """What ClickHouse answers; None, and a line on stderr about what is lost, without one."""
    try:
        reader = connect(directory)
        try:
            return ask(reader)
        finally:
            reader.close()
    except QueryError as error:
        print(f"without {lost}: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"without {lost}: pip install 'runwire[query]' brings {error.name}", file=sys.stderr)
    return None


def uses(reader: Reader, project: str | None) -> dict[tuple[str, str], list[str]]:
    """Runs that used a content, by name and digest."""
    where = "WHERE produced_in = {project:String} OR project = {project:String} " if project else ""
    rows = reader.rows(
        "SELECT name, sha256, arraySort(groupUniqArray(run_id)) AS runs "
        f"FROM v_artifact_uses {where}GROUP BY name, sha256",
        {"project": project or ""},
    )
    return {(row["name"], row["sha256"]): list(row["runs"]) for row in rows}


def used_by(reader: Reader, project: str, run_id: str) -> list[dict[str, Any]]:
    """What a run used, and which run made that."""
    return reader.rows(
        "SELECT name, version, type, produced_by, produced_in, used_at FROM v_artifact_uses "
        f"WHERE {OF_RUN} ORDER BY used_at, name",
        {"project": project, "run_id": run_id},
    )


def unfinished(
    reader: Reader, *, project: str | None, run_id: str | None, kind: str | None
) -> list[dict[str, Any]]:
    """Artifacts that were logged and are not in the store: on their way, or failed, and why."""
    wanted = {"project": project, "run_id": run_id, "type": kind}
    conditions = [f"{name} = {{{name}:String}}" for name, value in wanted.items() if value]
    where = " AND ".join(["state IN ('pending', 'failed')", *conditions])
    return reader.rows(
        "SELECT project, name, type, run_id, bytes, files, state, reason, logged_at, artifact, "
        f"rank, route FROM v_artifacts WHERE {where} ORDER BY logged_at DESC LIMIT 200",
        {name: value for name, value in wanted.items() if value},
    )


def unfinished_checkpoints(reader: Reader, project: str, run_id: str) -> list[dict[str, Any]]:
    """Checkpoints of a run that were saved and are not in the store."""
    return reader.rows(
        "SELECT step, attempt, bytes, metrics, state, reason, saved_at, kind, world_size, ranks "
        f"FROM v_checkpoints WHERE {OF_RUN} AND state IN ('pending', 'failed') ORDER BY saved_at",
        {"project": project, "run_id": run_id},
    )


def attempts(reader: Reader, project: str, run_id: str) -> dict[int, int]:
    """Numbers of a run's attempts, by the key of each."""
    rows = reader.rows(
        f"SELECT attempt_key, attempt FROM v_attempts WHERE {OF_RUN}",
        {"project": project, "run_id": run_id},
    )
    return {row["attempt_key"]: row["attempt"] for row in rows}
