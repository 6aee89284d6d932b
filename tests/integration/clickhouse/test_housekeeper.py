"""A round of housekeeping does what it can, whatever else does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runwire_consumers.clickhouse.tombstones import hide_run
from runwire_consumers.housekeeping.purge import count_rows, wait_until_purged
from runwire_consumers.housekeeping.rules import RULES_FILE
from runwire_consumers.settings import WorkerSettings
from runwire_consumers.stack.housekeeper import do_round
from runwire_store.open import FOLDER
from support.builders import run_event

pytestmark = pytest.mark.fault


def test_rows_of_deleted_runs_go_while_the_store_is_away(
    feed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that deletes needs the store; the purge of another run does not."""
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", feed.url)
    monkeypatch.delenv("RUNWIRE_S3_ENDPOINT", raising=False)
    end = {"event": "finished", "status": "finished", "seq": 9}
    for name in ("old", "gone"):
        feed.write(run_event(run_id=name), run_event(run_id=name, **end))
    hide_run(feed.client, "tests", "gone")
    (tmp_path / RULES_FILE).write_text('[[rule]]\nolder_than = "0s"\naction = "delete"\n')
    (tmp_path / FOLDER).write_text("no folder")
    done = do_round(tmp_path, WorkerSettings())
    assert any("rules were not applied" in line for line in done)
    assert any("removing rows of 1 runs" in line for line in done)
    wait_until_purged(feed.client, [("tests", "gone")], lambda _count, _failures: None)
    assert count_rows(feed.client, "run_id = 'gone'") == {}
    assert feed.rows("SELECT run_id FROM v_runs") == [("old",)]
    (tmp_path / FOLDER).unlink()
    assert "delete: run old of tests" in do_round(tmp_path, WorkerSettings())
