"""The project of a run is resolved from the names in the store."""

from __future__ import annotations

import pytest

from runwire_query import storage
from runwire_query.errors import QueryError
from runwire_store.catalog import Catalog
from runwire_store.memory import MemoryObjectStore
from support.stored import put_artifact, put_checkpoint

RUN_IDS = ["r", "sweep/1", "a:b", "50%", "back\\slash", "ü" * 200, "x" * 300]


@pytest.mark.parametrize("run_id", RUN_IDS)
def test_project_of_run_is_the_only_one_with_its_checkpoints(run_id: str) -> None:
    """Any run id resolves to the project of its checkpoints; two projects are refused by name."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10, project="q", run_id=run_id)
    put_checkpoint(store, 2, 10, project="elsewhere", run_id="another")
    put_artifact(store, 3, project="p", run_id=run_id)
    assert storage.project_of_run(Catalog(store), run_id, None) == "q"
    assert storage.project_of_run(Catalog(store), f"{run_id}2", None) is None
    put_checkpoint(store, 4, 10, project="s", run_id=run_id)
    with pytest.raises(QueryError, match="q, s"):
        storage.project_of_run(Catalog(store), run_id, None)
