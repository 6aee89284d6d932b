"""`runwire delete` asks before it deletes what nobody can bring back, and says what goes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from runwire_consumers.clickhouse.tombstones import hide_run
from runwire_consumers.commands import delete
from runwire_consumers.housekeeping.archive import archive_run, hide_archived
from runwire_consumers.housekeeping.archive_manifest import read_archive
from runwire_consumers.housekeeping.purge import purge, wait_until_purged
from runwire_consumers.stack.access import opened_store
from runwire_consumers.stack.state import StackError
from support.builders import run_event

pytestmark = pytest.mark.fault

RUN = ("tests", "it's 100 % \\ ☃")


def delete_run(root: Path, *options: str) -> int:
    """Run the command as a shell without a terminal would."""
    parser = argparse.ArgumentParser()
    delete.add_arguments(parser)
    args = parser.parse_args([RUN[1], *options])
    args.dir = root
    return delete.run(args)


@pytest.fixture(autouse=True)
def _environment(feed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", feed.url)
    monkeypatch.delenv("RUNWIRE_S3_ENDPOINT", raising=False)
    monkeypatch.delenv("RUNWIRE_S3_BUCKET", raising=False)


@pytest.mark.parametrize("is_purged", [False, True])
def test_archived_run_is_deleted_only_after_a_yes(
    is_purged: bool, feed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows are in the archive alone, which goes with it; a second deletion asks no more."""
    feed.write(run_event(run_id=RUN[1]))
    with opened_store(tmp_path) as store:
        archive_run(feed.client, store, *RUN, scratch=tmp_path)
        hide_archived(feed.client, store, *RUN)
        if is_purged:
            wait_until_purged(feed.client, [RUN], lambda _count, _failures: None)
            purge(feed.client, forget_s=1e9, settle_s=0.0)
        with pytest.raises(StackError, match="--yes"):
            delete_run(tmp_path)
        assert read_archive(store, *RUN) is not None
        assert delete_run(tmp_path, "--yes") == 0
        assert read_archive(store, *RUN) is None
    assert delete_run(tmp_path) == 0
    assert "artifacts, checkpoints and archive" in capsys.readouterr().out


def test_run_that_is_here_is_deleted_only_after_a_yes(feed: Any, tmp_path: Path) -> None:
    """A run that was hidden before needs none."""
    feed.write(run_event(run_id=RUN[1]))
    with pytest.raises(StackError, match="--yes"):
        delete_run(tmp_path)
    assert feed.row("SELECT count() FROM v_runs") == (1,)
    hide_run(feed.client, *RUN)
    assert delete_run(tmp_path) == 0
