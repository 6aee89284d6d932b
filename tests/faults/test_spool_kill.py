"""The spool alone under SIGKILL: acknowledged records are readable, whichever process died."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from faults import ledger
from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_disk.spool.writer import SpoolWriter
from runwire_schemas import codec
from runwire_schemas.events import LogEvent, MetricBatch, ParamEvent
from support.faults import LABELS, Stack
from support.spools import metric_log, new_writer

KILLS_PER_MODE = 8
LAST_MOMENT_S = 0.25


class Recovered:
    """What a reader finds in all folders of a root."""

    def __init__(self, root: Path) -> None:
        self.points: dict[int, dict[str, float]] = {}
        self.texts: dict[int, str] = {}
        self.params: set[int] = set()
        self.damage: list[object] = []
        for folder in list_folders(root):
            reader = FolderReader(folder)
            while cuts := reader.cut():
                for cut in cuts:
                    self.damage += cut.damage
                    if cut.value:
                        self._take(codec.decode(cut.value))
            reader.close()

    def _take(self, event: Any) -> None:
        if isinstance(event, MetricBatch):
            at = 0
            for step, n in zip(event.call_step, event.call_n, strict=True):
                assert step not in self.points, f"call {step} is there twice"
                names = (event.names[index] for index in event.name_idx[at : at + n])
                self.points[step] = dict(zip(names, event.value[at : at + n], strict=True))
                at += n
        elif isinstance(event, LogEvent) and event.name == "note":
            assert event.step is not None
            self.texts[event.step] = event.text
        elif isinstance(event, ParamEvent) and event.key.startswith("p"):
            self.params.add(int(event.key[1:]))

    @property
    def steps(self) -> set[int]:
        return self.points.keys() | self.texts.keys() | self.params


@pytest.mark.parametrize("mode", LABELS)
def test_acknowledged_calls_survive_sigkill(mode: str, tmp_path: Path, seed: int) -> None:
    """Every acknowledged call of a killed trainer, forked child or process group is recovered, bit
    for bit. Beyond them at most the one whole call of each thread that was in flight."""
    chosen = int(os.environ.get("RUNWIRE_FAULTS_SEED", seed))
    print(f"repeat with RUNWIRE_FAULTS_SEED={chosen}")
    rng = random.Random(f"{chosen} spool {mode}")
    stack = Stack(tmp_path)
    try:
        for _ in range(KILLS_PER_MODE):
            stack.start_trainer(mode, pause_s=0.0002)
            if rng.random() < 0.9:
                stack.wait_for_acks()
            time.sleep(rng.uniform(0.0, LAST_MOMENT_S))
            stack.kill_trainer_somehow(rng)
            stack.kill_trainer()
    finally:
        stack.kill_trainer()
    found, labels = Recovered(tmp_path), ledger.acknowledged(stack.acks)
    acked = {step for steps in labels.values() for step in steps}
    assert len(acked) > KILLS_PER_MODE
    assert acked - found.steps == set()
    allowed = {ledger.in_flight(label, steps) for label, steps in labels.items()}
    assert found.steps - acked - allowed == set()
    assert found.damage == []
    for step, points in found.points.items():
        assert points == ledger.metrics(step)
    assert all(text == ledger.text(step) for step, text in found.texts.items())


def test_recovery_check_sees_a_lost_call(tmp_path: Path) -> None:
    """The comparison of the test above fails when a record is missing."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    steps = [step for step in range(1, 60) if ledger.kind_of(step) == ledger.METRIC]
    for step in steps[:-1]:
        log.log(ledger.metrics(step), step)
    writer.close()
    assert set(steps) - Recovered(tmp_path).steps == {steps[-1]}


class Interrupted(dict[str, float]):
    """The data of one call; `log` asks for its values right after it looked up their layout."""

    def __init__(self, data: dict[str, float], act: Callable[[], None]) -> None:
        super().__init__(data)
        self.act: Callable[[], None] | None = act

    def values(self) -> Any:
        """The values; the first time, another thread acts before."""
        act, self.act = self.act, None
        if act is not None:
            act()
        return super().values()


def test_call_is_readable_when_its_segment_changes_between_look_up_and_store(
    tmp_path: Path,
) -> None:
    """A call that looked its shape up in the old segment is stored readably in the new one."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    series = writer.series["metric"]
    log.log({"a": 1.0}, 1)
    log.log({"a": 2.0}, 2)

    def roll() -> None:
        assert series.segment is not None
        number, step = series.segment.number, 100
        while series.segment.number == number:
            log.log({"b": float(step)}, step)
            step += 1

    log.log(Interrupted({"a": 3.0}, roll), 3)
    writer.close()
    found = Recovered(tmp_path)
    assert found.damage == []
    assert [found.points[step] for step in (1, 2, 3)] == [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}]


FORKS = """
import os, runwire
run = runwire.init("faults", run_id="forks")
for n in range(3):
    pid = os.fork()
    if pid == 0:
        (lambda: run.log_text("1 first", "note", 1), lambda: run.log_param("p2", 2),
         lambda: run.log({"m0": 3.0}, 3))[n]()
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_forked_child_opens_its_spool_with_any_kind_of_record(tmp_path: Path) -> None:
    """The first record of a child may be a text, a parameter or a metric."""
    environ = os.environ | {"RUNWIRE_DIR": str(tmp_path), "RUNWIRE_CAPTURE_GIT": "0"}
    subprocess.run([sys.executable, "-c", FORKS], env=environ, check=True, timeout=60)
    assert Recovered(tmp_path).steps == {1, 2, 3}


CLAIM = """
import json, sys
from pathlib import Path
from runwire_disk.spool.writer import SpoolWriter
from runwire_disk.spool.format import Meta
from runwire_disk.spool.format import SpoolError
try:
    SpoolWriter.create(Path(sys.argv[1]), Meta(**json.loads(sys.argv[2])))
except SpoolError as error:
    sys.exit(str(error))
"""


def test_second_process_cannot_claim_the_writer_of_the_first(tmp_path: Path) -> None:
    """The second is refused with a sentence; the first continues, and its records stay."""

    writer: SpoolWriter = new_writer(tmp_path)
    log = metric_log(writer)
    log.log({"m0": 1.0}, 1)
    second = subprocess.run(
        [sys.executable, "-c", CLAIM, str(tmp_path), json.dumps(asdict(writer.meta))],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert f"two processes claim writer {writer.meta.writer}" in second.stderr
    assert "belongs to one process; do not copy one between processes" in second.stderr
    log.log({"m0": 2.0}, 2)
    writer.close()
    assert Recovered(tmp_path).steps == {1, 2}
