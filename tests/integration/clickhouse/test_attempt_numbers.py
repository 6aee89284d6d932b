"""Checkpoints have the attempt numbers of the views, and unfinished ones are listed too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runwire_query.api.checkpoints import list_checkpoints
from runwire_query.api.runs import RunRef
from runwire_query.text.checkpoint_table import as_table
from runwire_store.catalog import Catalog
from runwire_store.memory import MemoryObjectStore
from support.builders import AT_NS, artifact_event, checkpoint_event, run_event
from support.stored import put_checkpoint

pytestmark = pytest.mark.engine

SECOND = 1_000_000_000
RUN = {"project": "tests", "run_id": "run-1"}


@pytest.fixture
def store(feed: Any, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    """Checkpoints of attempts 2 and 4, while the views have four attempts."""
    made = MemoryObjectStore()
    put_checkpoint(made, 1, 10, attempt="attempt-2", **RUN)
    put_checkpoint(made, 2, 20, attempt="attempt-4", **RUN)
    for number in range(1, 5):
        who = {"attempt": f"attempt-{number}", "writer": f"w{number}"}
        feed.write(run_event(at_ns=AT_NS + number * SECOND, **who))
    return made


def checkpoints(store: MemoryObjectStore, tmp_path: Path) -> list[tuple[Any, ...]]:
    rows = list_checkpoints(Catalog(store), str(tmp_path), RunRef(**RUN)).rows
    assert as_table(rows)
    return [(row.step, row.attempt, row.state) for row in rows]


def test_checkpoint_has_attempt_number_of_the_views_when_reachable(
    feed: Any, store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts 2 and 4 keep their numbers; without ClickHouse the stored attempts are counted."""
    assert checkpoints(store, tmp_path) == [(10, 1, "complete"), (20, 2, "complete")]
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", feed.url)
    assert checkpoints(store, tmp_path) == [(10, 2, "complete"), (20, 4, "complete")]
    put_checkpoint(store, 3, 30, attempt="not heard of", **RUN)
    assert checkpoints(store, tmp_path)[-1] == (30, None, "complete")


def test_pending_step_is_listed_when_another_attempt_stored_the_same_step(
    feed: Any, store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 20 of attempt 3 is pending although attempt 4 stored step 20, which is listed once."""
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", feed.url)
    for number, attempt, step in ((8, 3, 20), (2, 4, 20), (9, 4, 30)):
        who = {"attempt": f"attempt-{attempt}", "writer": f"w{attempt}"}
        artifact = f"{number:032x}"
        feed.write(
            checkpoint_event(artifact=artifact, step=step, at_ns=AT_NS + number * SECOND, **who)
        )
        feed.write(artifact_event(artifact=artifact, **who))
    assert checkpoints(store, tmp_path) == [
        (10, 2, "complete"), (20, 4, "complete"), (20, 3, "pending"), (30, 4, "pending"),
    ]  # fmt: skip
