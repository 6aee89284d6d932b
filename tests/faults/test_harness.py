"""The fault harness itself: it kills at the chosen moment, and its control has no protocol."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.sink import MemorySink
from runwire_consumers.core.source import MemorySource
from runwire_disk.paths import embedded_dir
from support import harness_worker
from support.builders import Batch, Bench, metric_record
from support.harness_worker import FreshTokens, KillingSource, KillPoint, UnsafeSource
from support.spools import metric_log, new_writer

NO_SERVER = "http://writer:secret@127.0.0.1:9/runwire"


class Killed(BaseException):
    """Stands for SIGKILL where a test must live on."""


def die() -> None:
    raise Killed


def test_unknown_kill_point_is_refused_with_the_known_ones() -> None:
    """A misspelt moment must not pass as a run without any kill."""
    with pytest.raises(ValueError, match="before-intent"):
        KillPoint("somewhere:1")
    KillPoint("").reach("after-insert")


@pytest.mark.parametrize(
    ("point", "intents", "writes", "committed"),
    [
        ("before-intent", 0, 0, {}),
        ("after-intent", 1, 0, {}),
        ("after-insert", 1, 1, {}),
        ("after-commit", 0, 1, {"p/metric": 1}),
    ],
)
def test_worker_dies_between_the_steps_that_the_point_names(
    point: str, intents: int, writes: int, committed: dict[str, int]
) -> None:
    """Intent, insert and commit are made up to the point and none after it; a restart is exact."""
    bench = Bench()
    bench.log.append([metric_record(0)])
    source = KillingSource(MemorySource(bench.log), KillPoint(f"{point}:1", die))
    with pytest.raises(Killed):
        bench.start(source=source).run()
    left = (int(bench.log.intent is not None), len(bench.store.writes), bench.log.committed)
    assert left == (intents, writes, committed)
    assert bench.start().run() == 0
    assert bench.store.points == 2


def test_process_dies_by_sigkill_with_its_intent_on_disk(tmp_path: Path) -> None:
    """The program is the product's worker: dead after the intent, which its next start finds."""
    writer = new_writer(tmp_path)
    metric_log(writer).log({"a": 1.0})
    found = subprocess.run(
        harness_worker.command("--dir", str(tmp_path), kill_at="after-intent:1"),
        env=os.environ | harness_worker.environment() | {"RUNWIRE_CLICKHOUSE_URL": NO_SERVER},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    assert '"intent"' in (embedded_dir(tmp_path) / "journal" / "intents.log").read_text()
    writer.close()


def test_control_stores_rows_again_when_an_answer_is_lost() -> None:
    """Each try of the control has a token of its own, so that the store cannot recognise it."""
    bench = Bench()
    bench.log.append([metric_record(0)])

    class Unsure(MemorySink):
        def write(self, batch: Batch) -> None:
            super().write(batch)
            if len(bench.store.writes) < 3:
                raise Retryable(0.1, "the answer got lost")

    assert bench.start(sink=FreshTokens(Unsure(bench.store))).run() == 0
    assert bench.store.points == 6


def test_control_forgets_what_it_stored_when_it_dies() -> None:
    """It commits at every third round: two rounds that were stored are read and stored again."""
    bench = Bench()
    source = UnsafeSource(MemorySource(bench.log), commit_every=3)
    for offset in range(5):
        bench.log.append([metric_record(offset)])
        (record,) = source.poll(0.0)
        spans = {record.partition: harness_worker.Span(offset, offset)}
        first, second = (source.intend([spans])[0] for _ in range(2))
        assert first != second
        source.commit(spans)
    assert bench.log.intent is None
    source.close(Deadline(1))
    assert [record.offset for record in MemorySource(bench.log).poll(0.0)] == [3, 4]
