"""Checkpoints of a run: those in the store, and those that the views know as unfinished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from runwire_query.api import lineage
from runwire_query.api.lineage import UnfinishedCheckpoint
from runwire_query.api.runs import RunRef, find_run
from runwire_query.connection import Reader, connect
from runwire_query.errors import QueryError
from runwire_query.storage import instant_of_ns, project_of_run
from runwire_schemas.identity import attempt_key

if TYPE_CHECKING:
    from runwire_store.catalog import Catalog
    from runwire_store.checkpoints import CheckpointView

__all__ = ["CheckpointList", "CheckpointRow", "list_checkpoints", "locate_run", "manifest_keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRow:
    """One checkpoint in the store, or one that is not there yet (`attempt_id` is None).

    `attempt` is None for an attempt that the views do not know (yet).
    """

    step: int
    attempt: int | None
    attempt_id: str | None
    state: str
    reason: str | None
    is_good: bool
    is_best: bool
    is_latest: bool
    kind: str
    world_size: int
    ranks: int
    metrics: Mapping[str, float]
    bytes: int
    files: int | None
    saved_at: datetime
    manifests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointList:
    """Checkpoints, stored ones first, both oldest first.

    `missing_because` is the reason when the views could not be asked, else empty.
    """

    rows: tuple[CheckpointRow, ...]
    missing_because: str


def locate_run(catalog: Catalog, directory: str | None, wanted: str, project: str | None) -> RunRef:
    """Return the run with this id in the store, else the one that the views find by id or name.

    Raises: QueryError.
    """
    project_in_store = project_of_run(catalog, wanted, project)
    if project_in_store is not None:
        return RunRef(project=project_in_store, run_id=wanted)
    try:
        reader = connect(directory)
    except (QueryError, ModuleNotFoundError):
        where = catalog.store.uri + (f", project {project!r}" if project else "")
        raise QueryError(
            f"{where} holds no checkpoint of a run {wanted!r}; "
            "while ClickHouse is unreachable, give the whole run id"
        ) from None
    try:
        return find_run(reader, wanted, project).ref
    finally:
        reader.close()


def list_checkpoints(catalog: Catalog, directory: str | None, run: RunRef) -> CheckpointList:
    """Return the checkpoints in the store and those that ClickHouse knows as unfinished.

    Attempts have the numbers of the views. Without the views the stored attempts are counted, so
    that an attempt without a stored checkpoint has no number.

    Raises: StoreError. Blocks: one listing of the store; at most 5 s to connect to ClickHouse.
    """
    from runwire_store.retention import find_checkpoint

    views = catalog.checkpoints(run.project, run.run_id)
    best, latest = find_checkpoint(views, "best"), find_checkpoint(views, "latest")

    def ask(reader: Reader) -> tuple[dict[int, int], list[UnfinishedCheckpoint]]:
        unfinished = lineage.list_unfinished_checkpoints(reader, run)
        return lineage.read_attempts(reader, run), unfinished

    answer = lineage.ask_if_reachable(directory, ask)
    numbers, unfinished = (_counted(views), []) if answer.value is None else answer.value
    rows = [
        _stored(
            view,
            attempt=numbers.get(attempt_key(view.attempt)),
            is_best=view is best,
            is_latest=view is latest,
        )
        for view in views
    ]
    stored = {(row.step, row.attempt) for row in rows}
    rows += [row for row in map(_unfinished, unfinished) if (row.step, row.attempt) not in stored]
    return CheckpointList(rows=tuple(rows), missing_because=answer.missing_because)


def manifest_keys(view: CheckpointView) -> tuple[str, ...]:
    """Return the keys of a checkpoint's manifests in the order of ranks."""
    return tuple(view.manifests[rank].key for rank in sorted(view.manifests))


def _counted(views: Sequence[CheckpointView]) -> dict[int, int]:
    keys = dict.fromkeys(attempt_key(view.attempt) for view in views)
    return {key: number for number, key in enumerate(keys, start=1)}


def _stored(
    view: CheckpointView, *, attempt: int | None, is_best: bool, is_latest: bool
) -> CheckpointRow:
    parts = f"{len(view.manifests)} of {view.world_size} parts"
    return CheckpointRow(
        step=view.step,
        attempt=attempt,
        attempt_id=view.attempt,
        state="complete" if view.is_complete else "pending",
        reason=None if view.is_complete else parts,
        is_good=view.is_good,
        is_best=is_best,
        is_latest=is_latest,
        kind=view.kind,
        world_size=view.world_size,
        ranks=len(view.manifests),
        metrics=dict(view.metrics),
        bytes=view.size,
        files=sum(len(manifest.files) for manifest in view.manifests.values()),
        saved_at=instant_of_ns(view.saved_at_ns),
        manifests=manifest_keys(view),
    )


def _unfinished(entry: UnfinishedCheckpoint) -> CheckpointRow:
    return CheckpointRow(
        step=entry.step,
        attempt=entry.attempt or None,
        attempt_id=None,
        state=entry.state,
        reason=entry.reason,
        is_good=False,
        is_best=False,
        is_latest=False,
        kind=entry.kind,
        world_size=entry.world_size,
        ranks=entry.ranks,
        metrics=entry.metrics,
        bytes=entry.bytes,
        files=None,
        saved_at=entry.saved_at,
        manifests=(),
    )
