"""Artifacts and checkpoints as rows of the store alone, while ClickHouse is not configured."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

import pytest

from runwire_query.api.artifacts import list_artifacts, read_artifact
from runwire_query.api.checkpoints import list_checkpoints, locate_run
from runwire_query.api.runs import RunRef
from runwire_query.errors import QueryError
from runwire_query.storage import find_artifact
from runwire_query.text import artifact_page, checkpoint_table
from runwire_store.catalog import Catalog
from runwire_store.memory import MemoryObjectStore
from support.stored import put_artifact, put_checkpoint

FILES = {"a/one.bin": b"1", "two.bin": b"22"}


@pytest.fixture(autouse=True)
def _no_clickhouse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNWIRE_CLICKHOUSE_URL", raising=False)


def test_artifact_rows_have_unknown_users_and_the_reason(tmp_path: Path) -> None:
    """Versions are newest first; lineage is None rather than empty."""
    store = MemoryObjectStore()
    put_artifact(store, 1, FILES, name="model", metadata={"lr": 0.1})
    put_artifact(store, 2, {"x": b"other"}, name="model")
    artifacts = list_artifacts(Catalog(store), str(tmp_path), name="model")
    assert [row.version for row in artifacts.rows] == [1, 0]
    assert {row.used_by for row in artifacts.rows} == {None}
    assert {row.created_at.tzinfo for row in artifacts.rows} == {UTC}
    assert "runwire up" in artifacts.missing_because
    table = artifact_page.as_table(artifacts.rows)
    assert "?" in table.splitlines()[2].split()


def test_artifact_detail_has_content_and_prints_without_lineage(tmp_path: Path) -> None:
    """The page shows files and metadata, and leaves out the lines that nobody can fill."""
    store = MemoryObjectStore()
    put_artifact(store, 1, FILES, name="evil\x1b[2J", project="p", metadata={"lr": 0.1})
    version = find_artifact(Catalog(store), "evil\x1b[2J:v0", "p")
    detail = read_artifact(version, str(tmp_path), store_uri="memory:")
    assert [(file.path, file.bytes) for file in detail.content] == [
        ("a/one.bin", 1),
        ("two.bin", 2),
    ]
    assert (detail.row.used_by, detail.made_from) == (None, None)
    page = artifact_page.as_page(detail)
    assert "lr = 0.1" in page
    assert "used by" not in page
    assert "\x1b" not in page
    shown = artifact_page.page_json(detail)
    assert (shown["made_from"], shown["used_by"], shown["version"]) == (None, None, 0)


def test_checkpoint_rows_count_stored_attempts_and_mark_the_best(tmp_path: Path) -> None:
    """JSON has words where a metric is no number, because JSON knows no NaN."""
    store = MemoryObjectStore()
    rules = {"keep_best": 1, "metric": "loss"}
    for number, loss in enumerate((2.0, 1.0, float("nan")), start=1):
        put_checkpoint(store, number, number * 10, metrics={"loss": loss}, retention=rules)
    put_checkpoint(store, 4, 40, kind="sharded", world_size=2, rank=1, attempt="later")
    checkpoints = list_checkpoints(
        Catalog(store), str(tmp_path), locate_run(Catalog(store), str(tmp_path), "r", None)
    )
    rows = checkpoints.rows
    assert [(row.step, row.attempt, row.is_best) for row in rows] == [
        (10, 1, False),
        (20, 1, True),
        (30, 1, False),
        (40, 2, False),
    ]
    assert (rows[3].state, rows[3].reason, rows[3].ranks) == ("pending", "1 of 2 parts", 1)
    assert checkpoint_table.row_json(rows[2])["metrics"] == {"loss": "NaN"}
    assert "not finite" in checkpoint_table.as_table(rows)


def test_run_is_located_by_whole_id_only_without_clickhouse(tmp_path: Path) -> None:
    """Names and beginnings need the views; the error says so."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10, run_id="run-1", project="p")
    catalog = Catalog(store)
    assert locate_run(catalog, str(tmp_path), "run-1", "p") == RunRef(project="p", run_id="run-1")
    with pytest.raises(QueryError, match="give the whole run id"):
        locate_run(catalog, str(tmp_path), "run-", None)
