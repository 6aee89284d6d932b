"""Archives of runs: the same rows come back, whatever interrupts the way there and back."""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from runwire_consumers.clickhouse.client import CALL_ERRORS, connect
from runwire_consumers.clickhouse.tombstones import find_tombstones, hide_run
from runwire_consumers.core.errors import WorkerError
from runwire_consumers.housekeeping.archive import archive_run, hide_archived, unarchive_run
from runwire_consumers.housekeeping.archive_manifest import ArchiveError, read_archive
from runwire_consumers.housekeeping.purge import count_rows, purge, wait_until_purged
from runwire_consumers.housekeeping.retain import thin
from runwire_consumers.housekeeping.rules import RunRule
from runwire_schemas.events import MetricBatch
from runwire_store.layout import ARCHIVES
from runwire_store.memory import MemoryObjectStore
from runwire_store.releasing import delete_objects
from runwire_store.store import Progress, StoreAway
from support.builders import (
    artifact_event,
    checkpoint_event,
    heartbeat,
    log_event,
    param_event,
    run_event,
)
from support.effort import IS_QUICK
from support.faults import wait_for
from support.request_cut import RequestCut

pytestmark = pytest.mark.fault

Points = Callable[..., MetricBatch]
RUN = ("tests", "run-1")
EVIL = "quote ' back \\ tab \t percent %s snow \u2603 nul \x00"
VIEWS = {
    "v_runs": "run_id",
    "v_metrics": "metric, step, seq",
    "v_series": "metric, step",
    "v_latest": "metric",
    "v_params": "key",
    "v_logs": "seq",
    "v_artifacts": "artifact",
    "v_checkpoints": "step",
    "v_completeness": "rank",
    "v_attempts": "attempt",
}
POINTS = "SELECT * FROM v_metrics WHERE run_id = 'run-1' ORDER BY metric, step, seq"


class CountedStore(MemoryObjectStore):
    """A store whose calls are steps too."""

    def __init__(self, step: Callable[[], bool]) -> None:
        super().__init__()
        self._step = step

    def _check(self) -> None:
        if not self._step():
            raise StoreAway("cut")

    def put(self, key: str, data: bytes) -> None:
        self._check()
        super().put(key, data)

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        journal: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._check()
        super().put_file(key, path, journal=journal, progress=progress)

    def get_file(self, key: str, path: Path, *, progress: Progress | None = None) -> None:
        self._check()
        super().get_file(key, path, progress=progress)

    def delete(self, keys: Any) -> None:
        self._check()
        super().delete(keys)


@pytest.fixture(autouse=True)
def _fill(feed: Any, points: Points, seed: int) -> None:
    """A run with odd values in every table, and a neighbour."""
    rng = random.Random(seed)
    values = [rng.choice([rng.gauss(0, 1), math.nan, -math.inf, 1e-300]) for _ in range(300)]
    now_ns = time.time_ns()
    for run_id in ("run-1", "other"):
        feed.write(
            run_event(run_id=run_id, tags={"a": EVIL}, environment={"x": "1", "b": "2"}),
            param_event(run_id=run_id, value=json.dumps(EVIL)),
            log_event(run_id=run_id, text=EVIL),
            heartbeat(run_id=run_id, dropped={"quota": 3}),
            artifact_event(run_id=run_id, artifact=f"{rng.getrandbits(128):032x}"),
            checkpoint_event(run_id=run_id, metrics={"loss": 0.5}),
            append_at_ns=now_ns,
        )
        for first in (0, 100, 200):
            some = [(seq, seq // 2, values[seq]) for seq in range(first, first + 100)]
            feed.write(points(some, run_id=run_id), append_at_ns=now_ns)
        feed.write(
            run_event(
                run_id=run_id, event="finished", status="finished", seq=9, accepted=300, exit_code=0
            ),
            append_at_ns=now_ns,
        )


def seen(feed: Any, run_id: str = "run-1") -> dict[str, str]:
    """What every view says of the run."""
    return {
        view: str(feed.rows(f"SELECT * FROM {view} WHERE run_id = '{run_id}' ORDER BY {order}"))
        for view, order in VIEWS.items()
    }


def silent(_count: int, _failures: dict[str, str]) -> None:
    """Report nothing."""


@pytest.fixture
def cut(feed: Any) -> Iterator[RequestCut]:
    with RequestCut(lambda: feed.url) as proxy:
        yield proxy


def interrupted(cut: RequestCut, last: int, act: Callable[[Any], object]) -> bool:
    """Act, with a client that is cut off after so many steps; whether it was."""
    cut.steps, cut.last = 0, last
    try:
        with contextlib.closing(connect(cut.url)) as client:
            act(client)
    except (*CALL_ERRORS, WorkerError, StoreAway):
        return True
    return False


def test_run_comes_back_row_for_row_from_its_archive(feed: Any, tmp_path: Path) -> None:
    """Views say the same as before; in between no row is left, and neighbours never change."""
    store = MemoryObjectStore()
    before, neighbour = seen(feed), seen(feed, "other")
    manifest = archive_run(feed.client, store, *RUN, scratch=tmp_path)
    assert archive_run(feed.client, store, *RUN, scratch=tmp_path) == manifest
    for _ in range(2):
        hide_archived(feed.client, store, *RUN)
        wait_until_purged(feed.client, [RUN], silent)
        assert count_rows(feed.client, "run_id = 'run-1'") == {}
        assert feed.row("SELECT count() FROM v_runs") == (1,)
        unarchive_run(feed.client, store, *RUN, scratch=tmp_path, report=silent)
        assert seen(feed) == before
        assert seen(feed, "other") == neighbour
        assert find_tombstones(feed.client, "run-1") == []
    assert list(tmp_path.iterdir()) == []


def test_archive_has_one_parquet_file_per_part_that_others_can_read(
    feed: Any, tmp_path: Path
) -> None:
    """Tables are cut into files by rows, and pyarrow reads the same values from them."""
    store = MemoryObjectStore()
    manifest = archive_run(feed.client, store, *RUN, scratch=tmp_path, rows_per_file=128)
    files = [file for file in manifest.files if file.table == "metrics"]
    assert len(files) == 3
    read = []
    for file in files:
        store.get_file(file.key, tmp_path / "file")
        table = pq.read_table(tmp_path / "file")
        read += zip(table["step"].to_pylist(), table["value"].to_pylist(), strict=True)
    stored = "SELECT step, value FROM metrics FINAL WHERE run_id = 'run-1' ORDER BY step, seq"
    assert str(read) == str(feed.rows(stored))
    hide_archived(feed.client, store, *RUN)
    unarchive_run(feed.client, store, *RUN, scratch=tmp_path, report=silent)
    assert str(read) == str(feed.rows(stored))


def test_archive_and_return_resume_after_a_cut_between_any_two_steps(
    feed: Any, tmp_path: Path, cut: RequestCut, seed: int
) -> None:
    """Cut before a random request or call of the store, then run again: the run is as before."""
    store = CountedStore(cut.step)
    before = seen(feed)

    def away(client: Any) -> None:
        if find_tombstones(client, "run-1") == []:
            archive_run(client, store, *RUN, scratch=tmp_path)
            hide_archived(client, store, *RUN)
        wait_until_purged(client, [RUN], silent)

    def back(client: Any) -> None:
        unarchive_run(client, store, *RUN, scratch=tmp_path, report=silent)

    rng = random.Random(seed)
    for action in (away, back):
        assert not interrupted(cut, 2**62, action)
        if action is away:
            assert feed.rows(POINTS) == []
    steps = cut.steps
    assert seen(feed) == before
    for _ in range(2 if IS_QUICK else 6):
        for action in (away, back):
            while interrupted(cut, rng.randint(1, steps + 20), action):
                points = str(feed.rows(POINTS))
                assert points in ("[]", before["v_metrics"])
                purge(feed.client, forget_s=1e9, settle_s=0.0)
        assert str(feed.rows(POINTS)) == before["v_metrics"]
    assert seen(feed) == before
    cut.last = 2**62
    delete_objects(store, *RUN)
    assert list(store.list(ARCHIVES)) == []


def test_archive_refuses_what_would_lose_rows(feed: Any, points: Points, tmp_path: Path) -> None:
    """Without an archive, or with newer rows than in it, nothing is hidden; damage is found."""
    store = MemoryObjectStore()
    with pytest.raises(ArchiveError, match="no archive"):
        hide_archived(feed.client, store, *RUN)
    manifest = archive_run(feed.client, store, *RUN, scratch=tmp_path)
    feed.write(points([(500, 500, 1.0)]))
    with pytest.raises(ArchiveError, match="metrics"):
        hide_archived(feed.client, store, *RUN)
    with pytest.raises(ArchiveError, match="other rows"):
        unarchive_run(feed.client, store, *RUN, scratch=tmp_path, report=silent)
    newer = archive_run(feed.client, store, *RUN, scratch=tmp_path)
    assert newer.rows > manifest.rows
    assert {stat.key for stat in store.list(ARCHIVES)} == {
        newer.key,
        *(file.key for file in newer.files),
    }
    hide_archived(feed.client, store, *RUN)
    damaged = newer.files[-1].key
    content = store.get(damaged)
    store.put(damaged, content[:-1] + b"x")
    with pytest.raises(ArchiveError, match="other bytes"):
        unarchive_run(feed.client, store, *RUN, scratch=tmp_path, report=silent)
    assert feed.rows("SELECT run_id FROM v_runs") == [("other",)]
    store.put(damaged, content)
    unarchive_run(feed.client, store, *RUN, scratch=tmp_path, report=silent)
    assert feed.row("SELECT count() FROM v_runs") == (2,)


def test_deletion_asked_for_during_a_return_wins_over_it(feed: Any, tmp_path: Path) -> None:
    """A mark that is newer than the return stays, so the run stays hidden and its rows go."""

    class DeletedMeanwhile(MemoryObjectStore):
        def get_file(self, key: str, path: Path, *, progress: Progress | None = None) -> None:
            super().get_file(key, path, progress=progress)
            if find_tombstones(feed.client, "run-1"):
                hide_run(feed.client, *RUN)

    store = DeletedMeanwhile()
    archive_run(feed.client, store, *RUN, scratch=tmp_path)
    hide_archived(feed.client, store, *RUN)
    unarchive_run(feed.client, store, *RUN, scratch=tmp_path, report=silent)
    assert feed.rows("SELECT run_id FROM v_runs") == [("other",)]
    wait_until_purged(feed.client, [RUN], silent)

    def is_settled() -> bool:
        purge(feed.client, forget_s=1e9, settle_s=0.0)
        return [mark.is_purged for mark in find_tombstones(feed.client, "run-1")] == [True]

    wait_for("the purge", is_settled)
    assert read_archive(store, *RUN) is not None


def test_run_that_is_back_is_not_taken_for_a_late_one_by_a_slow_purge(
    feed: Any, tmp_path: Path
) -> None:
    """A purge that saw no rows before the return began sets its mark while rows come back."""

    class PurgedMeanwhile(MemoryObjectStore):
        def get_file(self, key: str, path: Path, *, progress: Progress | None = None) -> None:
            super().get_file(key, path, progress=progress)
            if find_tombstones(feed.client, "run-1"):
                feed.client.command(
                    "INSERT INTO purged_runs SELECT project, run_id, deleted_at, now64(3) "
                    "FROM deleted_runs WHERE run_id = 'run-1' LIMIT 1"
                )

    store = PurgedMeanwhile()
    archive_run(feed.client, store, *RUN, scratch=tmp_path)
    hide_archived(feed.client, store, *RUN)
    unarchive_run(feed.client, store, *RUN, scratch=tmp_path, report=silent)
    report = purge(feed.client, forget_s=1e9, settle_s=0.0)
    assert (report.returned, report.left) == ((), {})
    assert feed.row("SELECT count() FROM v_runs") == (2,)


def test_two_archives_at_once_leave_one_with_all_its_files(feed: Any, tmp_path: Path) -> None:
    """Whichever stores its manifest last, the other has deleted none of its files."""

    class BesideAnother(MemoryObjectStore):
        is_first = True

        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            if key.endswith("manifest.json") and self.is_first:
                self.is_first = False
                self.delete([key])  # the other one has looked for an archive before
                archive_run(feed.client, self, *RUN, scratch=tmp_path)
                super().put(key, data)

    store = BesideAnother()
    before = seen(feed)
    manifest = archive_run(feed.client, store, *RUN, scratch=tmp_path)
    assert read_archive(store, *RUN) == manifest
    hide_archived(feed.client, store, *RUN)
    unarchive_run(feed.client, store, *RUN, scratch=tmp_path, report=silent)
    assert seen(feed) == before


def test_archive_that_lost_a_file_hides_nothing_and_is_made_again(
    feed: Any, tmp_path: Path
) -> None:
    """A manifest alone is no archive, whoever deleted its file."""
    store = MemoryObjectStore()
    manifest = archive_run(feed.client, store, *RUN, scratch=tmp_path)
    store.delete([manifest.files[-1].key])
    with pytest.raises(ArchiveError, match="lacks its file"):
        hide_archived(feed.client, store, *RUN)
    again = archive_run(feed.client, store, *RUN, scratch=tmp_path)
    assert again.archived_at_ms > manifest.archived_at_ms
    hide_archived(feed.client, store, *RUN)
    assert feed.row("SELECT count() FROM v_runs") == (1,)


def test_archive_of_all_points_is_not_replaced_by_one_of_a_thinned_run(
    feed: Any, tmp_path: Path
) -> None:
    """The archive may be the only place with those rows, so only a word of its own replaces it."""
    store = MemoryObjectStore()
    whole = archive_run(feed.client, store, *RUN, scratch=tmp_path)
    thin(feed.client, [RUN], RunRule(action="thin", older_than_s=0.0, keep_every=50))
    pending = "SELECT count() FROM system.mutations WHERE NOT is_done"
    wait_for("the thinning", lambda: feed.row(pending) == (0,))
    with pytest.raises(ArchiveError, match="300 rows of metrics"):
        archive_run(feed.client, store, *RUN, scratch=tmp_path)
    assert read_archive(store, *RUN) == whole
    smaller = archive_run(feed.client, store, *RUN, scratch=tmp_path, may_shrink=True)
    assert read_archive(store, *RUN) == smaller
    assert smaller.rows < whole.rows
