"""The object store of this machine or team, and how people name what lies in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runwire_disk import paths
from runwire_query.errors import QueryError
from runwire_query.text.words import printable

if TYPE_CHECKING:
    from runwire_schemas.errors import RunwireError
    from runwire_store.catalog import Catalog, Version

# Where a run lands that names no project, see the settings of the SDK.
DEFAULT_PROJECT = "default"
PROJECT_VARIABLE = "RUNWIRE_PROJECT"


@contextmanager
def opened(directory: str | None) -> Iterator[Catalog]:
    """Open the catalog of the store of $RUNWIRE_S3_ENDPOINT, else that of the data folder.

    Raises: QueryError with the store's sentence, also for errors of the block.
    """
    from runwire_schemas.connections.s3 import from_environment
    from runwire_store.open import open_catalog, translating_store_errors

    def as_error(error: RunwireError) -> QueryError:
        return QueryError(printable(str(error)))

    with translating_store_errors(as_error):
        s3 = from_environment(os.environ)
    with open_catalog(s3, paths.state_dir(directory), as_error) as catalog:
        yield catalog


def tell_damaged(damaged: Mapping[str, str]) -> None:
    """Report on stderr the manifests that a listing had to leave out."""
    for key, reason in sorted(damaged.items()):
        said = reason if key in reason else f"{key}: {reason}"
        print(f"left out: {printable(said)}", file=sys.stderr)


def chosen_project(named: str | None) -> str | None:
    """--project, else $RUNWIRE_PROJECT; None when nobody said."""
    return named or os.environ.get(PROJECT_VARIABLE) or None


def find_artifact(catalog: Catalog, ref: str, project: str | None) -> Version:
    """The version that a reference means, in the project or in the only one that has the name.

    Raises: QueryError that lists the projects when there are several; CatalogError.
    """
    from runwire_store.catalog import CatalogError

    try:
        return catalog.resolve(ref, project or DEFAULT_PROJECT)
    except CatalogError:
        if project is not None:
            raise
        name = ref.rpartition(":")[0]
        found = {each for word in (ref, name) if word for each in catalog.projects_of(word)}
        if found - {DEFAULT_PROJECT} == set():
            raise
    return catalog.resolve(ref, _only(found, f"an artifact {ref!r}"))


def project_of_run(catalog: Catalog, run_id: str, project: str | None) -> str | None:
    """The project in which a run has checkpoints; None when none has.

    Raises: QueryError that lists them when there are several.
    """
    if project is not None:
        return project if catalog.checkpoints(project, run_id) else None
    if catalog.checkpoints(DEFAULT_PROJECT, run_id):
        return DEFAULT_PROJECT
    found = _projects_of_run(catalog, run_id)
    return _only(found, f"a run {run_id!r} with checkpoints") if found else None


def _projects_of_run(catalog: Catalog, run_id: str) -> set[str]:
    from runwire_store.manifest import checkpoint_name

    name = checkpoint_name("", run_id)
    if name == checkpoint_name(DEFAULT_PROJECT, run_id):
        return set(catalog.projects_of(name))
    # An overlong id: its name is made of the project too, so all manifests have to be asked.
    known = (version.manifest for version in catalog.artifacts(None, run_id=run_id))
    return {manifest.project for manifest in known if manifest.checkpoint is not None}


def _only(projects: set[str], what: str) -> str:
    if len(projects) > 1:
        names = printable(", ".join(sorted(projects)))
        raise QueryError(f"several projects have {what}: {names}; choose with --project")
    return next(iter(projects))
