"""Hooks of process ends: chained, removable and weak; forks and notebooks included."""

import gc
import logging
import os
import signal
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from runwire.process import exits, notebook
from runwire.process.exits import Outcome, outcome_of
from runwire_disk import fork


class Recorder:
    """Stands where a run stands and remembers what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome | None] = []
        self.signals: list[tuple[int, bool]] = []
        self.finished: list[Outcome] = []

    def note_outcome(self, outcome: Outcome | None) -> None:
        self.outcomes.append(outcome)

    def note_preemption(self, signum: int, *, final: bool) -> None:
        self.signals.append((signum, final))

    def finish_at_exit(self, outcome: Outcome) -> None:
        self.finished.append(outcome)


@pytest.fixture
def run() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    exits.uninstall(recorder)


def test_hooks_are_restored_with_the_last_run(run: Recorder) -> None:
    """After finish the process is as it was."""
    before = (sys.excepthook, threading.excepthook, sys.exit, signal.getsignal(signal.SIGTERM))
    other = Recorder()
    exits.install(run)
    exits.install(other)
    exits.uninstall(run)
    assert sys.excepthook is not before[0]
    exits.uninstall(other)
    after = (sys.excepthook, threading.excepthook, sys.exit, signal.getsignal(signal.SIGTERM))
    assert after == before


def test_lazy_module_is_not_loaded_by_the_search_for_other_names_of_exit(
    run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`importlib.util.LazyLoader` loads at the first attribute, and the module may fail to load."""

    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise ImportError(name)

    monkeypatch.setitem(sys.modules, "lazy_module", Lazy("lazy_module"))
    exits.install(run)


def test_previous_excepthook_runs_exactly_once(
    run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs share one hook, which calls the previous one once."""
    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _k, exc, _t: seen.append(exc))
    exits.install(run)
    exits.install(Recorder())
    error = ValueError("x")
    sys.excepthook(ValueError, error, None)
    assert seen == [error]
    assert [o.status for o in run.outcomes if o] == ["failed"]


def test_hook_installed_over_ours_stays_after_uninstall(
    run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing ours would remove theirs too; without runs ours only passes on."""
    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _k, exc, _t: seen.append(exc))
    exits.install(run)
    ours = sys.excepthook

    def theirs(kind: Any, exc: Any, trace: Any) -> None:
        ours(kind, exc, trace)

    sys.excepthook = theirs
    exits.uninstall(run)
    assert sys.excepthook is theirs
    sys.excepthook(ValueError, ValueError("x"), None)
    assert len(seen) == 1
    sys.excepthook = ours
    exits.install(run)
    exits.uninstall(run)


def test_installed_runs_stay_collectable() -> None:
    """An installed hook does not keep a run and its files alive."""
    recorder = Recorder()
    exits.install(recorder)
    gone = weakref.ref(recorder)
    del recorder
    gc.collect()
    assert gone() is None
    exits.uninstall(Recorder())


def test_handler_that_calls_ours_decides_alone(run: Recorder) -> None:
    """Lightning calls the handler it replaced and then stops gracefully: no second ending."""
    before = signal.getsignal(signal.SIGTERM)
    exits.install(run)
    ours = signal.getsignal(signal.SIGTERM)
    assert callable(ours)
    called: list[int] = []

    def composed(signum: int, frame: types.FrameType | None) -> None:
        ours(signum, frame)
        called.append(signum)

    signal.signal(signal.SIGTERM, composed)
    try:
        signal.raise_signal(signal.SIGTERM)
        assert called == [signal.SIGTERM]
        assert run.signals == [(signal.SIGTERM, False)]
    finally:
        signal.signal(signal.SIGTERM, ours)
        exits.uninstall(run)
    assert signal.getsignal(signal.SIGTERM) == before


def test_previous_signal_handler_is_called(run: Recorder) -> None:
    """A Python handler that was installed before ours still runs, and the run does not end."""
    called: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda signum, _frame: called.append(signum))
    try:
        exits.install(run, preempt_signals=("SIGUSR1",))
        signal.raise_signal(signal.SIGUSR1)
        assert called == [signal.SIGUSR1]
        assert run.signals == [(signal.SIGUSR1, False)]
    finally:
        exits.uninstall(run)
        signal.signal(signal.SIGUSR1, before)


def test_ignored_and_unsafe_signals_keep_their_handler(run: Recorder) -> None:
    """SIG_IGN, SIGKILL and SIGINT are not handled by us."""
    interrupt = signal.getsignal(signal.SIGINT)  # ignored where a shell started us behind
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        exits.install(run, preempt_signals=("SIGUSR1", "SIGKILL", "SIGINT"))
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_another_thread_installs_no_signal_handler(run: Recorder) -> None:
    """Only the main thread can; init in a thread must not fail for it."""
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=exits.install, args=(run,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_failing_run_does_not_hide_the_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """The previous excepthook runs even if a run raises."""

    class Broken(Recorder):
        def note_outcome(self, outcome: Outcome | None) -> None:
            raise OSError("disk")

    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _k, exc, _t: seen.append(exc))
    broken = Broken()
    exits.install(broken)
    sys.excepthook(ValueError, ValueError("x"), None)
    exits.uninstall(broken)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("exc", "status", "code"),
    [
        (None, "finished", 0),
        (SystemExit(), "finished", 0),
        (SystemExit(0), "finished", 0),
        (SystemExit(3), "failed", 3),
        (SystemExit(-1), "failed", 255),
        (SystemExit(143), "preempted", 143),
        (SystemExit(130), "interrupted", 130),
        (SystemExit("why"), "failed", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (ValueError(), "failed", 1),
        (MemoryError("x"), "failed", 1),
    ],
)
def test_outcome_follows_the_exception_and_exit_code(
    exc: BaseException | None, status: str, code: int
) -> None:
    """Each way to end gives its status and exit code."""
    outcome = outcome_of(exc)
    assert (outcome.status, outcome.exit_code) == (status, code)


def test_exception_whose_message_fails_is_named_by_type() -> None:
    """A failing __str__ does not prevent the outcome."""

    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "SilentError" in (outcome_of(SilentError()).reason or "")


class Forked:
    def __init__(self, pipe: int, *, fails: bool = False) -> None:
        self.pipe, self.fails = pipe, fails

    def after_fork_in_child(self) -> None:
        if self.fails:
            raise OSError("disk")
        os.write(self.pipe, b"x")


def test_a_failing_fork_hook_does_not_stop_the_others() -> None:
    """Each owner resets itself; a dead owner is no hook any more."""
    read_end, write_end = os.pipe()
    logging.getLogger("runwire").disabled = True
    try:
        dead, failing, good = Forked(write_end), Forked(write_end, fails=True), Forked(write_end)
        for owner in (dead, failing, good, good):
            fork.register(owner)
        del owner, dead
        gc.collect()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        fork.unregister(good)
        fork.unregister(failing)
        os.close(write_end)
        assert os.read(read_end, 10) == b"x"
    finally:
        logging.getLogger("runwire").disabled = False
        os.close(read_end)


@pytest.mark.process
def test_a_child_dies_of_sigterm_however_early_it_comes(run: Recorder) -> None:
    """Python forgets signals that reach a child before its interpreter is ready; we hold them."""
    exits.install(run)
    for _ in range(30):
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            while True:
                signal.pause()
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert run.signals == []
    assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)


class Shell:
    """The two calls of IPython's event registry that notebooks offer."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[Any]] = {"pre_run_cell": [], "post_run_cell": []}
        self.events = self

    def register(self, event: str, hook: Any) -> None:
        self.hooks[event].append(hook)

    def unregister(self, event: str, hook: Any) -> None:
        self.hooks[event].remove(hook)

    def cell(self, error: BaseException | None) -> None:
        for hook in self.hooks["pre_run_cell"]:
            hook(None)
        for hook in self.hooks["post_run_cell"]:
            hook(types.SimpleNamespace(error_in_exec=error))


def test_failed_cell_is_cleared_by_the_next_cell(
    run: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is not over because one cell failed, and no cell ends it."""
    shell = Shell()
    module = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)  # type: ignore[arg-type]
    assert notebook.install(run)
    shell.cell(ValueError("x"))
    assert run.outcomes[-1] is not None
    assert run.outcomes[-1].status == "failed"
    shell.cell(None)
    assert run.outcomes[-1] is None
    assert run.finished == []
    notebook.uninstall(run)
    assert shell.hooks == {"pre_run_cell": [], "post_run_cell": []}
