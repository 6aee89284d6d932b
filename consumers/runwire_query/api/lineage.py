"""Relations that only the views know: producers and users of artifacts, and unfinished uploads.

The store answers without them: `ask_if_reachable` returns the reason instead of failing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from runwire_query.api.runs import OF_RUN, RunRef
from runwire_query.connection import Reader, columns_of, connect
from runwire_query.errors import QueryError

__all__ = [
    "ViewAnswer",
    "UnfinishedArtifact",
    "UnfinishedCheckpoint",
    "UsedArtifact",
    "ask_if_reachable",
    "list_unfinished",
    "list_unfinished_checkpoints",
    "read_attempts",
    "read_used",
    "read_users",
]

UNFINISHED_MAX = 200

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class ViewAnswer(Generic[AnswerT]):
    """The answer of the views, or None and the reason why there is none."""

    value: AnswerT | None
    missing_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedArtifact:
    """One artifact that a run used, and the run that produced it."""

    name: str
    version: int | None
    type: str
    produced_by: str
    produced_in: str
    used_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedArtifact:
    """An artifact that was logged and is not in the store; `reason` says why it failed."""

    project: str
    name: str
    type: str
    run_id: str
    bytes: int
    files: int
    state: str
    reason: str | None
    logged_at: datetime
    artifact: str
    rank: int
    route: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedCheckpoint:
    """A checkpoint that was saved and is not in the store; `reason` says why it failed."""

    step: int
    attempt: int
    bytes: int
    metrics: Mapping[str, float]
    state: str
    reason: str | None
    saved_at: datetime
    kind: str
    world_size: int
    ranks: int


def ask_if_reachable(
    directory: str | None, ask: Callable[[Reader], AnswerT]
) -> ViewAnswer[AnswerT]:
    """Return what `ask` reads from ClickHouse, or the reason why ClickHouse cannot be asked.

    Blocks: at most 5 s to connect.
    """
    try:
        reader = connect(directory)
        try:
            return ViewAnswer(ask(reader))
        finally:
            reader.close()
    except QueryError as error:
        return ViewAnswer(None, str(error))
    except ModuleNotFoundError as error:
        return ViewAnswer(None, f"pip install 'runwire[query]' brings {error.name}")


def read_users(reader: Reader, project: str | None) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the ids of the runs that used a content, by artifact name and digest."""
    where = "produced_in = {project:String} OR project = {project:String}" if project else "true"
    rows = reader.rows(
        "SELECT name, sha256, arraySort(groupUniqArray(run_id)) AS runs "
        f"FROM v_artifact_uses WHERE {where} GROUP BY name, sha256",
        {"project": project or ""},
    )
    return {(row["name"], row["sha256"]): tuple(row["runs"]) for row in rows}


def read_used(reader: Reader, run: RunRef) -> list[UsedArtifact]:
    """Return the artifacts that a run used, in the order of use."""
    return reader.read(
        UsedArtifact,
        f"SELECT {columns_of(UsedArtifact)} FROM v_artifact_uses WHERE {OF_RUN} "
        "ORDER BY used_at, name",
        run.parameters(),
    )


def list_unfinished(
    reader: Reader, *, project: str | None, run_id: str | None, kind: str | None
) -> list[UnfinishedArtifact]:
    """Return the artifacts that were logged and are not in the store, newest first."""
    named = {"project": project, "run_id": run_id, "type": kind}
    filters = {name: value for name, value in named.items() if value}
    conditions = ["state IN ('pending', 'failed')", *(f"{n} = {{{n}:String}}" for n in filters)]
    return reader.read(
        UnfinishedArtifact,
        f"SELECT {columns_of(UnfinishedArtifact)} FROM v_artifacts "
        f"WHERE {' AND '.join(conditions)} ORDER BY logged_at DESC LIMIT {UNFINISHED_MAX}",
        filters,
    )


def list_unfinished_checkpoints(reader: Reader, run: RunRef) -> list[UnfinishedCheckpoint]:
    """Return the checkpoints of a run that were saved and are not in the store, oldest first."""
    return reader.read(
        UnfinishedCheckpoint,
        f"SELECT {columns_of(UnfinishedCheckpoint)} FROM v_checkpoints "
        f"WHERE {OF_RUN} AND state IN ('pending', 'failed') ORDER BY saved_at",
        run.parameters(),
    )


def read_attempts(reader: Reader, run: RunRef) -> dict[int, int]:
    """Return the number of each attempt of a run by its key."""
    rows = reader.rows(
        f"SELECT attempt_key, attempt FROM v_attempts WHERE {OF_RUN}", run.parameters()
    )
    return {row["attempt_key"]: row["attempt"] for row in rows}
