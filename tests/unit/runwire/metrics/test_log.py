"""Steps, values that wait, masked values, and an end while other threads log."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runwire
from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_schemas import codec
from runwire_schemas.events import Event, LogEvent, MetricBatch, RunEvent
from support.spools import metric_log, new_writer

SETTINGS = runwire.Settings(agent="none", capture_git=False)


def events(root: Path) -> list[Event]:
    """Everything in the spool."""
    found: list[Event] = []
    for folder in list_folders(root):
        reader = FolderReader(folder, sync=False)
        while cuts := reader.cut():
            assert not any(cut.damage for cut in cuts)
            found += [codec.decode(cut.value) for cut in cuts]
        reader.close()
    return found


def points(root: Path) -> list[tuple[str, int, float]]:
    """(metric, step, value) in the order of logging."""
    found = []
    for batch in events(root):
        if isinstance(batch, MetricBatch):
            steps = [
                s for s, n in zip(batch.call_step, batch.call_n, strict=True) for _ in range(n)
            ]
            names = (batch.names[index] for index in batch.name_idx)
            found += list(zip(names, steps, batch.value, strict=True))
    return found


def test_values_that_wait_keep_their_step(tmp_path: Path) -> None:
    """`commit=False` values join a call of their own step, and never move to that of another."""
    run = runwire.init("p", dir=tmp_path, settings=SETTINGS)
    run.log({"a": 1.0}, step=5, commit=False)
    run.log({"b": 2.0}, step=6)
    run.log({"c": 3.0}, commit=False)
    run.log({"d": 4.0})
    for step in (20, 21):
        run.log({"e": float(step)}, step=step, commit=False)
    run.finish()
    assert points(tmp_path) == [
        ("a", 5, 1.0),
        ("b", 6, 2.0),
        ("c", 7, 3.0),
        ("d", 7, 4.0),
        ("e", 20, 20.0),
        ("e", 21, 21.0),
    ]


def test_text_that_waits_is_logged_at_the_end(tmp_path: Path) -> None:
    """`commit=False` texts of the last step are there after finish, with their values."""
    with runwire.init("p", dir=tmp_path, settings=SETTINGS) as run:
        run.log({"note": "last words", "m": 1.0}, commit=False)
    assert [e.text for e in events(tmp_path) if isinstance(e, LogEvent)] == ["last words"]
    assert points(tmp_path) == [("m", 0, 1.0)]


@pytest.mark.parametrize("huge", [2**53, 2**62, 2**63 - 1, -(2**63)])
def test_implicit_steps_do_not_follow_a_huge_one(tmp_path: Path, huge: int) -> None:
    """A hash or a time as step is stored; the count goes on as if it had not been there."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    for step in (None, huge, None, huge):
        log.log({"m": 1.0}, step)
    log.log({"m": 1.0, "new": 2.0}, huge)
    log.log({"m": 1.0})
    writer.close()
    steps = [step for name, step, _ in points(tmp_path) if name == "m"]
    assert steps == [0, huge, 1, huge, huge, 2]


def test_step_beyond_64_bits_costs_itself_alone(tmp_path: Path) -> None:
    """The calls after one with an impossible step are stored at the steps that follow."""
    writer = new_writer(tmp_path)
    failures: list[tuple[str, str]] = []
    log = metric_log(writer, failures)
    log.log({"m": 1.0})
    log.log({"m": 2.0}, 2**70)
    log.log({"m": 3.0}, 1)
    log.log({"m": 4.0})
    writer.close()
    assert failures
    assert [p for p in points(tmp_path) if p[2] != 2.0] == [
        ("m", 0, 1.0),
        ("m", 1, 3.0),
        ("m", 2, 4.0),
    ]


def test_masked_values_are_dropped_and_not_zero(tmp_path: Path) -> None:
    """numpy's masked constant, a masked 0-d and a masked one-element array have no value."""
    writer = new_writer(tmp_path)
    failures: list[tuple[str, str]] = []
    log = metric_log(writer, failures)
    masked: dict[str, Any] = {
        "constant": np.ma.masked,
        "0d": np.ma.array(1.0, mask=True),
        "one": np.ma.array([1.0], mask=[True]),
    }
    log.log({**masked, "fine": np.ma.array(2.0, mask=False)})
    writer.close()
    assert points(tmp_path) == [("fine", 0, 2.0)]
    assert writer.dropped == {"not_a_number": 3}
    assert all("masked" in sentence for _, sentence in failures)


def test_end_while_threads_log_counts_what_is_stored(tmp_path: Path) -> None:
    """The points of the finish event are those in the spool; later calls are refused."""
    run = runwire.init("p", dir=tmp_path, settings=SETTINGS)
    log, stop, started = run.log, threading.Event(), threading.Semaphore(0)

    def work() -> None:
        log({"m": 1.0})
        started.release()
        while not stop.is_set():
            log({"m": 1.0})

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        started.acquire()
    report = run.finish()
    stop.set()
    for thread in threads:
        thread.join()
    stored = len(points(tmp_path))
    finished = [e for e in events(tmp_path) if isinstance(e, RunEvent) and e.event == "finished"]
    assert [event.accepted for event in finished] == [stored]
    assert report.spooled == stored


def test_repeated_definition_of_a_metric_is_recorded_once(tmp_path: Path) -> None:
    """A loop that defines its metrics at each step does not fill the spool with them."""
    with runwire.init("p", dir=tmp_path, settings=SETTINGS) as run:
        for _ in range(100):
            run.define_metric("loss", summary="min")
        run.define_metric("loss", summary="max")
    runs = [e for e in events(tmp_path) if isinstance(e, RunEvent)]
    assert sum(event.metric_defs is not None for event in runs) == 2
