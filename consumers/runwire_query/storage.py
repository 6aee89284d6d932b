"""The object store of this machine or team, and the artifacts and runs that people name in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from runwire_disk import paths
from runwire_query.errors import QueryError, printable
from runwire_schemas.identity import DEFAULT_PROJECT

if TYPE_CHECKING:
    from runwire_schemas.errors import RunwireError
    from runwire_store.catalog import Catalog, Version

__all__ = [
    "choose_project",
    "find_artifact",
    "instant_of_ns",
    "open_catalog",
    "project_of_run",
]

PROJECT_VARIABLE: Final = "RUNWIRE_PROJECT"


@contextmanager
def open_catalog(directory: str | None) -> Iterator[Catalog]:
    """Open the catalog of $RUNWIRE_S3_ENDPOINT, else of the store in the data folder.

    Raises: QueryError with the store's sentence, also for errors of the block.
    """
    from runwire_schemas.connections.s3 import from_environment
    from runwire_store import open as stores

    def as_error(error: RunwireError) -> QueryError:
        return QueryError(printable(str(error)))

    with stores.translating_store_errors(as_error):
        s3 = from_environment(os.environ)
    with stores.open_catalog(s3, paths.state_dir(directory), as_error) as catalog:
        yield catalog


def choose_project(named: str | None) -> str | None:
    """Return the project of --project, else of $RUNWIRE_PROJECT; None without either."""
    return named or os.environ.get(PROJECT_VARIABLE) or None


def find_artifact(catalog: Catalog, ref: str, project: str | None) -> Version:
    """Return the version that a reference means, in the project or in the only one with the name.

    Raises: QueryError that lists the projects when there are several; CatalogError.
    """
    from runwire_store.catalog import CatalogError

    try:
        return catalog.resolve(ref, project or DEFAULT_PROJECT)
    except CatalogError:
        if project is not None:
            raise
        name = ref.rpartition(":")[0]
        projects = {p for word in (ref, name) if word for p in catalog.projects_of(word)}
        if projects - {DEFAULT_PROJECT} == set():
            raise
    return catalog.resolve(ref, _only(projects, f"an artifact {ref!r}"))


def project_of_run(catalog: Catalog, run_id: str, project: str | None) -> str | None:
    """Return the project in which a run has checkpoints; None when it has none.

    Raises: QueryError that lists the projects when there are several.
    """
    if project is not None:
        return project if catalog.checkpoints(project, run_id) else None
    if catalog.checkpoints(DEFAULT_PROJECT, run_id):
        return DEFAULT_PROJECT
    projects = _projects_of_run(catalog, run_id)
    return _only(projects, f"a run {run_id!r} with checkpoints") if projects else None


def instant_of_ns(at_ns: int) -> datetime:
    """Return the UTC time of a unix time in nanoseconds."""
    return datetime.fromtimestamp(at_ns / 1e9, UTC)


def _projects_of_run(catalog: Catalog, run_id: str) -> set[str]:
    from runwire_store.manifest import checkpoint_name

    name = checkpoint_name("", run_id)
    if name == checkpoint_name(DEFAULT_PROJECT, run_id):
        return set(catalog.projects_of(name))
    # The name of an overlong id depends on the project too, so all manifests are searched.
    manifests = (version.manifest for version in catalog.artifacts(None, run_id=run_id))
    return {manifest.project for manifest in manifests if manifest.checkpoint is not None}


def _only(projects: set[str], subject: str) -> str:
    if len(projects) > 1:
        names = printable(", ".join(sorted(projects)))
        raise QueryError(f"several projects have {subject}: {names}; choose with --project")
    return next(iter(projects))
