"""Ends of a trainer as a real process: status, exit code and points of each."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_schemas import codec
from runwire_schemas.events import Heartbeat, LogEvent, MetricBatch, RunEvent
from support.node import watching

TRAINERS = Path(__file__).parent / "trainers"
TIMEOUT_S = 60


@dataclass
class Ending:
    """What a trainer left: its return code and everything in its spool."""

    returncode: int
    stderr: str
    runs: list[RunEvent] = field(default_factory=list)
    logs: list[LogEvent] = field(default_factory=list)
    beats: list[Heartbeat] = field(default_factory=list)
    points: dict[str, int] = field(default_factory=dict)

    def last(self, name: str, run_id: str | None = None) -> Any:
        """Value of a run field: the greatest seq that says something wins."""
        said = [
            (e.seq, getattr(e, name))
            for e in self.runs
            if getattr(e, name) is not None and run_id in (None, e.run_id)
        ]
        return max(said)[1] if said else None


def train(
    root: Path, script: str, *arguments: str, signals: tuple[tuple[str, int], ...] = ()
) -> Ending:
    """Run a trainer, send each signal when its word was printed, then read what it left."""
    environ = os.environ | {"RUNWIRE_DIR": str(root), "RUNWIRE_CAPTURE_GIT": "0"}
    process = subprocess.Popen(
        [sys.executable, str(TRAINERS / f"{script}.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    with process:
        try:
            assert process.stdout is not None
            for word, signum in signals:
                assert process.stdout.readline().strip() == word
                process.send_signal(signum)
            _, stderr = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    with watching(root) as watch:
        watch.tick(0.0)
    return read(root, Ending(process.returncode, stderr))


def read(root: Path, ending: Ending) -> Ending:
    for folder in list_folders(root):
        reader = FolderReader(folder, sync=False)
        while cuts := reader.cut():
            for cut in cuts:
                event = codec.decode(cut.value)
                if isinstance(event, RunEvent):
                    ending.runs.append(event)
                elif isinstance(event, LogEvent):
                    ending.logs.append(event)
                elif isinstance(event, Heartbeat):
                    ending.beats.append(event)
                elif isinstance(event, MetricBatch):
                    for index in event.name_idx:
                        name = event.names[index]
                        ending.points[name] = ending.points.get(name, 0) + 1
        reader.close()
    return ending


READY_TERM = (("ready", signal.SIGTERM),)

# script, signals, return code, status, recorded exit code, points
MATRIX: list[tuple[str, tuple[tuple[str, int], ...], int, str, int | None, dict[str, int]]] = [
    ("finishes", (), 0, "finished", 0, {"loss": 10}),
    ("finishes_in_a_block", (), 0, "finished", 0, {"loss": 1}),
    ("exits_with_3", (), 3, "failed", 3, {"loss": 1}),
    ("exits_with_3_in_a_block", (), 3, "failed", 3, {"loss": 1}),
    ("exits_by_imported_name", (), 5, "failed", 5, {"loss": 1}),
    ("exits_by_builtin", (), 6, "failed", 6, {"loss": 1}),
    ("raises_exit", (), 4, "finished", None, {"loss": 1}),
    ("exits_with_a_message", (), 1, "failed", 1, {}),
    ("catches_its_exit", (), 0, "finished", 0, {"loss": 1}),
    ("raises", (), 1, "failed", 1, {"loss": 1}),
    ("raises_in_a_thread", (), 0, "finished", 0, {}),
    ("waits", (("ready", signal.SIGINT),), -2, "interrupted", 130, {"loss": 1}),
    ("waits", READY_TERM, -15, "preempted", 143, {"loss": 1}),
    ("waits", (("ready", signal.SIGKILL),), -9, "killed", None, {"loss": 1}),
    ("waits_in_c", READY_TERM, -15, "preempted", 143, {"loss": 1}),
    ("waits_in_c", (("ready", signal.SIGKILL),), -9, "killed", None, {"loss": 1}),
    ("waits_with_handler", READY_TERM, 7, "preempted", 7, {"saved": 1}),
    ("waits_composed", READY_TERM, 0, "preempted", 0, {"saved": 1}),
    (
        "waits_then_saves",
        (("ready", signal.SIGTERM), ("saving", signal.SIGKILL)),
        -9,
        "preempted",
        None,
        {"loss": 1},
    ),
    ("leaves_by_os_exit", (), 4, "killed", None, {"loss": 1}),
    ("crashes_in_c", (), -6, "killed", None, {"loss": 1}),
    ("forks", (), 0, "finished", 0, {"loss": 2, "child": 1}),
    ("forks_and_child_raises", (), 0, "finished", 0, {"loss": 1}),
]


@pytest.mark.parametrize(
    ("script", "signals", "returncode", "status", "exit_code", "points"),
    MATRIX,
    ids=[f"{row[0]}-{row[3]}" for row in MATRIX],
)
def test_each_way_to_end_is_recorded_with_its_exit_code(
    tmp_path: Path,
    *,
    script: str,
    signals: tuple[tuple[str, int], ...],
    returncode: int,
    status: str,
    exit_code: int | None,
    points: dict[str, int],
) -> None:
    """The process ends as it would without runwire, the run records how, and no point is lost."""
    ending = train(tmp_path, script, signals=signals)
    assert ending.returncode == returncode, ending.stderr
    assert ending.last("status") == status
    assert ending.last("exit_code") == exit_code
    assert ending.points == points
    trainer = sum(n for name, n in points.items() if name != "child")
    assert (ending.last("accepted") or 0) == trainer


def test_exception_is_recorded_without_its_secrets(tmp_path: Path) -> None:
    """Type and message are in the reason, the traceback in the logs; Python prints as usual."""
    ending = train(tmp_path, "raises")
    assert ending.last("status_reason").startswith("ValueError: cannot connect")
    text = "".join(log.text for log in ending.logs)
    assert "Traceback" in text
    recorded = text + ending.last("status_reason")
    assert "hunter2" not in recorded
    assert ending.stderr.count("ValueError: cannot connect") == 1


def test_status_reason_names_a_thread_that_died(tmp_path: Path) -> None:
    """For Python the process ends well; the status reason still names the thread."""
    ending = train(tmp_path, "raises_in_a_thread")
    assert "thread 'loader'" in ending.last("status_reason")
    assert "lost batch" in ending.last("status_reason")


def test_reason_says_that_a_raised_exit_has_an_unknown_code(tmp_path: Path) -> None:
    """`raise SystemExit(n)` leaves a trace, but not its code; a run that returned has no reason."""
    assert "use sys.exit(code)" in train(tmp_path / "raised", "raises_exit").last("status_reason")
    assert train(tmp_path / "returned", "finishes").last("status_reason") is None


def test_status_reason_of_a_killed_run_has_its_last_step(tmp_path: Path) -> None:
    """The reason of a killed run names its last step and the process that reported it."""
    ending = train(tmp_path, "waits", signals=(("ready", signal.SIGKILL),))
    assert "ended without finishing the run" in ending.last("status_reason")
    assert "last step 0" in ending.last("status_reason")
    assert ending.last("reporter")


def test_ignored_signal_stays_ignored_during_a_run(tmp_path: Path) -> None:
    """nohup and some launchers rely on it."""
    signals = (("ready", signal.SIGTERM), ("still here", signal.SIGKILL))
    ending = train(tmp_path, "waits_ignoring", signals=signals)
    assert ending.returncode == -9
    assert ending.last("status") == "killed"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_processes_log_into_the_run_and_never_end_it(tmp_path: Path, method: str) -> None:
    """Points of all processes arrive; only the trainer finishes the run."""
    ending = train(tmp_path, "loads_with_workers", method)
    assert ending.returncode == 0, ending.stderr
    assert ending.points == {"batch": 2, "loss": 1}
    assert ending.last("status") == "finished"
    assert len([e for e in ending.runs if e.event == "finished"]) == 1
    assert {b.phase for b in ending.beats} == {"ended"}
    assert sum(b.accepted for b in ending.beats) == 2


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_end_their_own_runs(tmp_path: Path, method: str) -> None:
    """They end by os._exit, without atexit: by returning, an exception, or an exit code."""
    ending = train(tmp_path, "has_children_with_runs", method)
    assert ending.returncode == 0, ending.stderr
    ends = {
        run_id: (ending.last("status", run_id), ending.last("exit_code", run_id))
        for run_id in ("returns", "raises", "exits", "raises_exit")
    }
    assert ends == {
        "returns": ("finished", 0),
        "raises": ("failed", 1),
        "exits": ("failed", 3),
        "raises_exit": ("failed", 4),
    }
    assert "lost batch" in ending.last("status_reason", "raises")
    assert ending.points == {"loss": 4}


def test_two_runs_of_one_process_end_with_their_own_status(tmp_path: Path) -> None:
    """A finished run keeps its status when a later run of the same process fails."""
    ending = train(tmp_path, "runs_twice")
    assert ending.returncode == 1
    assert ending.last("status", "first") == "finished"
    assert ending.last("status", "second") == "failed"
