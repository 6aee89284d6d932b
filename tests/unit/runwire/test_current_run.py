"""The current run: a stack per thread and task, and what another `init` does to an open run."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import runwire
from runwire_disk.spool.reader import list_folders, writer_alive
from support.spooled import end_of, points, run_events


def in_thread(function: Callable[[], None]) -> None:
    """Run a function in a thread to its end; its exception fails the test."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_outer_run_is_current_again_after_inner_one(root: Path) -> None:
    """Module functions go to the innermost open run of the thread."""
    with runwire.init("p", run_id="outer") as outer:
        runwire.log({"a": 1.0})
        with runwire.start_run("child", nested=True, run_id="inner") as inner:
            assert runwire.active_run() is inner
            runwire.log({"a": 2.0})
        assert runwire.active_run() is outer
        runwire.log({"a": 3.0})
    assert points(root) == {
        ("outer", "a"): [(0, 1.0), (1, 3.0)],
        ("inner", "a"): [(0, 2.0)],
    }


def test_active_run_is_none_after_finish(root: Path) -> None:
    """Later module calls are reported to the ended run and raise nothing."""
    run = runwire.init("p")
    assert runwire.active_run() is runwire.run is run
    runwire.finish()
    assert runwire.active_run() is runwire.run is None
    assert not run.is_active
    runwire.log({"a": 1.0})
    assert run.guard.counts.pop("logging after finish") == 1
    assert runwire.finish() == runwire.FlushReport()


def test_nested_run_takes_project_group_and_folder_of_its_parent(
    root: Path, tmp_path: Path
) -> None:
    """An argument of the nested run's own wins."""
    elsewhere = tmp_path / "elsewhere"
    with runwire.init("p", run_id="outer", group="g", dir=elsewhere):
        with runwire.start_run("child", nested=True, run_id="inner") as inner:
            assert inner.project == "p"
        with runwire.start_run(nested=True, project="other") as other:
            assert other.project == "other"
    started = run_events(elsewhere, "inner")[0]
    assert (started.parent_run_id, started.group, started.name) == ("outer", "g", "child")
    assert not root.exists()


def test_threads_with_runs_of_their_own_do_not_mix(root: Path) -> None:
    """Module functions of each thread go to the run that this thread started."""
    barrier = threading.Barrier(3)

    def objective(name: str) -> None:
        runwire.init("p", run_id=name)
        barrier.wait()
        runwire.log({"x": float(name)})
        barrier.wait()
        runwire.finish()

    threads = [threading.Thread(target=objective, args=(str(n),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert points(root) == {(str(n), "x"): [(0, float(n))] for n in range(3)}


def test_thread_without_a_run_sees_that_of_the_main_thread(root: Path) -> None:
    """Also while other threads have newer runs of their own."""
    with runwire.init("p", run_id="main") as run:

        def other() -> None:
            with runwire.init("p", run_id="of thread"):
                in_thread(lambda: runwire.log({"x": 1.0}))

        in_thread(other)
        assert runwire.active_run() is run
    assert points(root) == {("main", "x"): [(0, 1.0)]}


def test_run_of_a_thread_is_seen_where_main_has_none(root: Path) -> None:
    """Trainers that run in a thread of their own log from callbacks of others."""
    kept: list[runwire.Run] = []
    in_thread(lambda: kept.append(runwire.init("p", run_id="only")))
    assert runwire.active_run() is kept[0]
    in_thread(lambda: runwire.log({"x": 1.0}))
    kept[0].finish()
    assert points(root) == {("only", "x"): [(0, 1.0)]}


def test_tasks_with_runs_of_their_own_do_not_mix(root: Path) -> None:
    """Each asyncio task has its own current run, although they share a thread."""

    async def trial(name: str) -> None:
        with runwire.init("p", run_id=name):
            await asyncio.sleep(0)
            runwire.log({"x": float(name)})
            await asyncio.sleep(0)

    async def search() -> None:
        await asyncio.gather(trial("0"), trial("1"))

    asyncio.run(search())
    assert points(root) == {("0", "x"): [(0, 0.0)], ("1", "x"): [(0, 1.0)]}


def test_second_init_ends_the_open_run_as_finished(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loops and notebook cells: the end is recorded, logged by name, and frees descriptors."""
    monkeypatch.setenv("RUNWIRE_CAPTURE_GIT", "0")  # a process for each start
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that is needed
    with caplog.at_level(logging.WARNING, "runwire"):
        for number in range(20):
            runwire.init("p", run_id=f"run-{number}")
            runwire.log({"x": 1.0})
    runwire.finish()
    assert [end_of(root, f"run-{n}") for n in range(20)] == ["finished"] * 20
    assert len([r for r in caplog.records if "still open" in r.message]) == 19
    assert "run-3 " in caplog.records[3].message
    after = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert after <= before + 2


def test_second_init_keeps_a_run_that_a_block_ends(root: Path) -> None:
    """A `with` statement ends its run itself."""
    with runwire.init("p", run_id="outer") as outer, runwire.init("p", run_id="inner"):
        assert outer.is_active
    assert (end_of(root, "outer"), end_of(root, "inner")) == ("finished", "finished")


def test_notebook_cell_ends_the_run_of_an_earlier_cell(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell may run in a context of its own, in one thread."""
    shell = SimpleNamespace(events=SimpleNamespace(register=print, unregister=print))
    module = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)  # type: ignore[arg-type]
    first = contextvars.copy_context().run(runwire.init, "p")
    contextvars.copy_context().run(runwire.log, {"x": 1.0})
    second = contextvars.copy_context().run(runwire.init, "p")
    assert (first.is_active, second.is_active) == (False, True)
    assert first.flush(0).spooled == 1
    runwire.finish()
    assert not second.is_active


@pytest.mark.parametrize(
    ("reinit", "is_same", "is_kept"),
    [
        ("return_previous", True, True),
        (False, True, True),
        ("create_new", False, True),
        ("finish_previous", False, False),
        (True, False, False),
    ],
)
def test_reinit_follows_the_words_of_wandb(
    root: Path, reinit: bool | str, *, is_same: bool, is_kept: bool
) -> None:
    """Return the open run, keep both, or end the open one."""
    first = runwire.init("p")
    second = runwire.init("p", reinit=reinit)
    assert (second is first) == is_same
    assert first.is_active == is_kept
    for run in (second, first):
        run.finish()


def test_unknown_arguments_of_init_name_what_to_use(root: Path) -> None:
    """Those of wandb and MLflow have a sentence of their own; a typo gets the nearest name."""
    for argument, advice in {
        "entity": "project= or group=",
        "experiment_name": "project='NAME'",
        "all_ranks": "ranks='zero'",
        "run_nam": "did you mean name",
    }.items():
        wrong: dict[str, object] = {argument: "x"}
        with pytest.raises(runwire.ConfigError, match=argument) as caught:
            runwire.init("p", **wrong)  # type: ignore[arg-type]
        assert advice in str(caught.value) or "did you mean" in str(caught.value)
    with pytest.raises(runwire.ConfigError, match="create_new"):
        runwire.init("p", reinit="never")
    assert list_folders(root) == []


def test_refused_init_leaves_the_open_run_alone(root: Path) -> None:
    """A wrong argument must not end the run before."""
    run = runwire.init("p", run_id="r")
    for run_id, resume in ((None, "sometimes"), ("r", "never")):
        with pytest.raises(runwire.ConfigError):
            runwire.init("p", run_id=run_id, resume=resume)
    assert runwire.active_run() is run
    run.finish()


def test_init_that_is_interrupted_leaves_no_open_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gets the run, so its writer must not stay open: it would look alive for ever."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runwire.start.announce_launch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runwire.init("p", run_id="r")
    assert end_of(root, "r") == "interrupted"
    assert not any(map(writer_alive, list_folders(root)))


def test_id_and_resume_true_are_accepted_as_with_wandb(root: Path) -> None:
    """`id` is the run id, `resume=True` continues it."""
    with runwire.init("p", id="r") as run:
        run.log({"a": 1.0}, 4)
    with runwire.init("p", id="r", resume=True) as run:
        assert (run.id, run.step) == ("r", 5)


def test_start_run_takes_the_name_under_both_words(root: Path) -> None:
    """MLflow's `run_name`, and `name` as `init` has it."""
    with runwire.start_run("a") as run:
        assert run.name == "a"
    with runwire.start_run(name="b") as run:
        assert run.name == "b"
