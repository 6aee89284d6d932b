"""Handles of a run: one object and one writer for each process, however often it is unpickled."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest

import runwire
from runwire.run import Run
from runwire_disk.spool.reader import list_folders
from support.spooled import points

TASKS = 40


def _task(run: Run, number: int) -> tuple[int, int, int]:
    run.log({"task": float(number)}, number)
    return os.getpid(), id(run), len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only a count


@pytest.mark.process
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_pool_worker_opens_one_writer_for_all_its_tasks(root: Path, method: str) -> None:
    """Each task unpickles the run; no point is lost, and descriptors do not grow."""
    context = multiprocessing.get_context(method)
    with runwire.init("p", run_id="r") as run:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            answers = list(pool.map(_task, [run] * TASKS, range(TASKS)))
        assert len(list_folders(root)) == 2
    assert len({(pid, identity) for pid, identity, _ in answers}) == 1
    assert answers[-1][2] <= answers[0][2] + 1
    assert points(root)["r", "task"] == [(n, float(n)) for n in range(TASKS)]
    if method == "forkserver":
        _stop_helpers()


def _stop_helpers() -> None:
    from multiprocessing import forkserver, resource_tracker

    forkserver._forkserver._stop()  # noqa: SLF001 - no public call ends it
    resource_tracker._resource_tracker._stop()  # noqa: SLF001


def test_unpickled_run_is_the_run_in_its_own_process(root: Path) -> None:
    """Also a copy: sklearn.clone and Lightning copy what holds a run."""
    with runwire.init("p") as run:
        assert pickle.loads(pickle.dumps(run)) is run
        assert copy.deepcopy({"logger": run})["logger"] is run
        assert copy.copy(run) is run
        run.log({"a": 1.0})
        assert len(list_folders(root)) == 1


def test_handles_of_different_runs_stay_apart(root: Path) -> None:
    """The key is the run, its attempt and its rank."""
    pickles = []
    for name in ("one", "two"):
        with runwire.init("p", run_id=name) as run:
            pickles.append(pickle.dumps(run))
        del run
    handles = [pickle.loads(data) for data in pickles]
    assert [handle.id for handle in handles] == ["one", "two"]


def test_log_function_that_was_kept_logs_through_the_writer_of_a_forked_child(root: Path) -> None:
    """`log = run.log` before a fork: two processes must not write into one segment."""
    with runwire.init("p", run_id="r") as run:
        log = run.log
        log({"a": 0.0})
        child = os.fork()
        if child == 0:
            log({"a": 1.0}, 1)
            os._exit(0)
        os.waitpid(child, 0)
        log({"a": 2.0}, 2)
        assert run.flush(0).spooled == 2
    assert len(list_folders(root)) == 2
    assert sorted(points(root)["r", "a"]) == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_child_that_is_forked_after_the_end_of_a_run_logs_nothing_to_it(root: Path) -> None:
    """A data loader that is made after `finish` must not write to the ended run."""
    run = runwire.init("p", run_id="r")
    run.finish()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: (run.log({"a": 1.0}), runwire.log({"a": 1.0})))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert len(list_folders(root)) == 1
