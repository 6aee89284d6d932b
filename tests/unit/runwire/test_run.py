"""Runs: every call of a trainer recorded, wrong calls reported and never raised."""

from __future__ import annotations

import decimal
import enum
import json
import multiprocessing
import os
import pickle
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runwire
from runwire.run import Run
from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_schemas import codec
from runwire_schemas.events import Event, LogEvent, MetricBatch, ParamEvent, RunEvent


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, no agent."""
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RUNWIRE_AGENT", "none")
    return tmp_path / "data"


def events(root: Path) -> list[Event]:
    """Everything in all folders of the spool."""
    found: list[Event] = []
    for folder in list_folders(root):
        reader = FolderReader(folder)
        while cuts := reader.cut():
            found += [codec.decode(cut.value) for cut in cuts if cut.value]
        reader.close()
    return found


def scalars(root: Path) -> dict[str, list[float]]:
    """Values by metric, in the order of logging."""
    series: dict[str, list[float]] = {}
    for event in events(root):
        if isinstance(event, MetricBatch):
            for index, value in zip(event.name_idx, event.value, strict=True):
                series.setdefault(event.names[index], []).append(value)
    return series


def test_a_run_from_start_to_finish(root: Path) -> None:
    """Start, params, tags, metrics, text, summary and finish all arrive, with the counts."""
    run = runwire.init("p", name="n", config={"lr": 0.1, "opt": {"b": 1}}, tags=["x"], group="g")
    run.log({"loss": 1.0, "note": "hello"})
    run.log({"loss": 0.5})
    run.set_tags({"k": "v"})
    run.summary["best"] = 0.5
    run.define_metric("loss", summary="min", goal="minimize")
    assert run.summary["loss"] == 0.5
    assert runwire.config["lr"] == 0.1
    assert runwire.run is run
    report = runwire.finish()
    assert (report.spooled, report.pending) == (2, 2)
    found = events(root)
    runs = [e for e in found if isinstance(e, RunEvent)]
    assert runs[0].event == "started"
    assert runs[0].name == "n"
    assert runs[0].tags == {"x": ""}
    assert runs[-1].event == "finished"
    assert runs[-1].status == "finished"
    assert runs[-1].accepted == 2
    assert runs[-1].last_step == 1
    assert {e.key: e.value for e in found if isinstance(e, ParamEvent)} == {
        "lr": "0.1",
        "opt/b": "1",
    }
    assert [e.text for e in found if isinstance(e, LogEvent)] == ["hello"]
    definitions = [json.loads(e.metric_defs) for e in runs if e.metric_defs]
    assert definitions[-1]["loss"]["summary"] == "min"


def test_log_accepts_unusual_scalars(root: Path) -> None:
    """numpy scalars, 0-d arrays, enums, Decimal, bool and huge ints are numbers; None is not."""

    class Colour(enum.Enum):
        RED = 3

    with runwire.init("p") as run:
        values = {
            "f32": np.float32(0.1),
            "f16": np.float16(2.5),
            "i64": np.int64(7),
            "0d": np.array(1.5),
            "one": np.array([2.5]),
            "enum": Colour.RED,
            "dec": decimal.Decimal("0.25"),
            "bool": True,
            "big": 2**80,
        }
        run.log(values)
        run.log(values)
        run.log({"none": None, "bytes": b"x", "array": np.arange(3), "fine": 1.0})
    found = scalars(root)
    assert found["f32"] == [float(np.float32(0.1))] * 2
    assert found["0d"] == [1.5, 1.5]
    assert found["enum"] == [3.0, 3.0]
    assert found["dec"] == [0.25, 0.25]
    assert found["bool"] == [1.0, 1.0]
    assert found["big"] == [float(2**80)] * 2
    assert found["fine"] == [1.0]
    assert set(found) == {*values, "fine"}
    assert run.guard.counts.pop("log: not_a_number") == 2
    assert run.flush(0).dropped == {"not_a_number": 3}


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda run: run.log([1, 2]), "log"),
        (lambda run: run.log({"a": 1.0}, step="x"), "log"),
        (lambda run: run.log({"a": 1.0}, step=1.5), "log"),
        (lambda run: run.define_metric("a", summary="median"), "define_metric"),
        (lambda run: run.finish("done"), "finish"),
        (lambda run: run.log({"k" * 300: 1.0}), "log: too_large"),
    ],
)
def test_misuse_is_counted_and_never_raised(root: Path, call: Any, kind: str) -> None:
    """After init nothing raises; the cause is counted by kind."""
    run = runwire.init("p")
    call(run)
    run.finish()
    assert run.guard.counts.pop(kind) == 1


def test_strict_mode_raises_refusals(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RUNWIRE_STRICT=1 turns refusals into exceptions."""
    monkeypatch.setenv("RUNWIRE_STRICT", "1")
    with runwire.init("p") as run, pytest.raises(TypeError, match="mapping of names to values"):
        run.log(3)


def test_cycles_and_deep_nesting_are_refused(root: Path) -> None:
    """A mapping that contains itself ends in a sentence, not in a RecursionError."""
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with runwire.init("p") as run:
        run.log(loop)
    assert run.guard.counts.pop("log") == 1


def test_a_failing_block_is_a_failed_run(root: Path) -> None:
    """The with statement records exceptions and lets them pass."""
    with pytest.raises(ZeroDivisionError), runwire.init("p"):
        raise ZeroDivisionError("boom")
    finished = [e for e in events(root) if isinstance(e, RunEvent)][-1]
    assert finished.status == "failed"
    assert "boom" in (finished.status_reason or "")
    assert any(isinstance(e, LogEvent) and "ZeroDivisionError" in e.text for e in events(root))


def test_disabled_mode_writes_nothing(root: Path) -> None:
    """mode="disabled" keeps the surface and touches no file."""
    with runwire.init("p", mode="disabled", config={"a": 1}) as run:
        run.log({"x": 1.0})
        run.summary["y"] = 2
        assert run.config["a"] == 1
    assert not root.exists()


def test_resume_rules_are_enforced_at_init(root: Path) -> None:
    """An implicit step continues after an earlier attempt; must and never are enforced."""
    with pytest.raises(runwire.ConfigError, match="resume='must'"):
        runwire.init("p", run_id="r", resume="must")
    with runwire.init("p", run_id="r") as first:
        first.log({"a": 1.0}, 41)
    with pytest.raises(runwire.ConfigError, match="resume='never'"):
        runwire.init("p", run_id="r", resume="never")
    with runwire.init("p", run_id="r", resume="must") as second:
        assert second.step == 42
        assert second.id == first.id
    attempts = {e.attempt for e in events(root) if isinstance(e, RunEvent)}
    assert len(attempts) == 2


def test_other_ranks_show_progress_without_points(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics come from rank 0 unless asked for; a rank's step is visible all the same."""
    for name, value in {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "RUNWIRE_RUN_ID": "shared",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with runwire.init("p") as run:
        run.log({"a": 1.0}, 10)
    with runwire.init("p", all_ranks=True) as run:
        run.log({"b": 1.0}, 10)
    assert scalars(root) == {"b": [1.0]}
    finished = [e for e in events(root) if isinstance(e, RunEvent) and e.event == "finished"]
    assert [e.last_step for e in finished] == [10, 10]
    assert {e.rank for e in finished} == {1}


def _log_in_child(run: Run) -> None:
    run.log({"from_child": 1.0}, 5)
    run.log({"from_child": 2.0}, 6)
    os._exit(0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_log_into_the_same_run(root: Path, method: str) -> None:
    """Forked and spawned workers get a writer of their own and never end the run."""
    run = runwire.init("p", run_id="shared")
    run.log({"from_parent": 1.0})
    child = multiprocessing.get_context(method).Process(target=_log_in_child, args=(run,))
    child.start()
    child.join()
    if method == "spawn":
        resource_tracker._resource_tracker._stop()  # multiprocessing keeps it for the next child  # noqa: SLF001 - no public call
    run.log({"from_parent": 2.0})
    run.finish()
    assert scalars(root) == {"from_parent": [1.0, 2.0], "from_child": [1.0, 2.0]}
    found = events(root)
    assert {e.run_id for e in found} == {"shared"}
    assert len({e.writer for e in found}) == 2
    assert [e.event for e in found if isinstance(e, RunEvent)] == ["started", "finished"]


def test_run_pickles_as_a_handle(root: Path) -> None:
    """The pickle names the run and holds no file."""
    with runwire.init("p", run_id="r") as run:
        copy = pickle.loads(pickle.dumps(run))
        assert copy.id == "r"
        assert len(list_folders(root)) == 1


def test_logging_after_finish_is_reported_once(root: Path) -> None:
    """Using an ended run is reported once and not raised."""
    run = runwire.init("p")
    run.finish()
    run.log({"a": 1.0})
    run.log({"a": 1.0})
    run.config["b"] = 1
    assert run.guard.counts.pop("logging after finish") == 3


def test_settings_apply_where_no_argument_is_given(root: Path, tmp_path: Path) -> None:
    """An omitted argument does not override the folder or project of `settings`."""
    elsewhere = tmp_path / "elsewhere"
    settings = runwire.Settings(dir=str(elsewhere), project="of settings", run_id="r")
    with runwire.init(settings=settings) as run:
        assert (run.project, run.id) == ("of settings", "r")
    with runwire.init("of argument", settings=settings) as run:
        assert run.project == "of argument"
    assert len(list_folders(elsewhere)) == 2
    assert not root.exists()
