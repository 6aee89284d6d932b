"""Runs and checkpoints as `runwire checkpoints` finds them in a store, and tells them."""

from __future__ import annotations

import pytest

from runwire_query import storage
from runwire_query.errors import QueryError
from runwire_store.catalog import Catalog
from runwire_store.memory import MemoryObjectStore
from support.stored import put_artifact, put_checkpoint

RUN_IDS = ["r", "sweep/1", "a:b", "50%", "back\\slash", "ü" * 200, "x" * 300]


@pytest.mark.parametrize("run_id", RUN_IDS)
def test_a_run_is_found_without_its_project(run_id: str) -> None:
    """Whatever its id holds: the name of its checkpoints is made in one place only."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10, project="q", run_id=run_id)
    put_checkpoint(store, 2, 10, project="elsewhere", run_id="another")
    put_artifact(store, 3, project="p", run_id=run_id)
    assert storage.project_of_run(Catalog(store), run_id, None) == "q"
    assert storage.project_of_run(Catalog(store), f"{run_id}2", None) is None
    put_checkpoint(store, 4, 10, project="s", run_id=run_id)
    with pytest.raises(QueryError, match="q, s"):
        storage.project_of_run(Catalog(store), run_id, None)
