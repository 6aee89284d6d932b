"""Runs: every call of a trainer recorded, wrong calls reported and never raised."""

from __future__ import annotations

import decimal
import enum
import json
import multiprocessing
import os
import pickle
import re
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runwire
from runwire.metrics.store import MetricStore
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
        (lambda run: run.log({"a": 1.0}, step="x"), "log(step=)"),
        (lambda run: run.log({"a": 1.0}, step=1.5), "log(step=)"),
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


def test_cycles_and_deep_nesting_are_refused_alone(root: Path) -> None:
    """A mapping that contains itself ends in a sentence; what else the call logs is kept."""
    loop: dict[str, Any] = {"inside": 3.0}
    loop["self"] = loop
    deep: dict[str, Any] = {"leaf": 1.0}
    for _ in range(12):
        deep = {"d": deep}
    with runwire.init("p") as run:
        run.log({"before": 1.0, "loop": loop, "deep": deep, "after": 2.0})
    assert run.guard.counts.pop("log: not_a_number") == 2
    assert scalars(root) == {"before": [1.0], "loop/inside": [3.0], "after": [2.0]}


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __float__(self) -> float:
        raise RuntimeError("no number")


def test_value_or_name_that_raises_leaves_its_siblings(root: Path) -> None:
    """Whatever a class of the user raises costs its own value alone."""
    with runwire.init("p") as run:
        run.log({"a": 1.0, "bad": Unprintable(), Unprintable(): 2.0, "b": 3.0})  # type: ignore[dict-item]
    assert scalars(root) == {"a": [1.0], "b": [3.0]}
    assert run.guard.counts.pop("log: not_a_number") == 2


@pytest.mark.parametrize(
    ("value", "call"),
    [
        (np.zeros((8, 8, 3)), "log_image"),
        (runwire.Histogram([0.0, 1.0], [1]), "log_histogram"),
        (runwire.Artifact("a"), "log_artifact"),
        ([{"a": 1}], "log_table"),
        (type("Figure", (), {"savefig": print})(), "log_figure"),
        (type("Image", (), {"__module__": "PIL.Image"})(), "log_image"),
        (type("Image", (), {"__module__": "wandb.sdk"})(), "log_image"),
        (type("DataFrame", (), {"to_dict": print, "columns": ()})(), "log_table"),
    ],
)
def test_value_that_is_no_number_is_refused_with_its_call(
    root: Path, caplog: pytest.LogCaptureFixture, value: Any, call: str
) -> None:
    """Images, figures, tables and distributions inside log() are refused by name and remedy."""
    with runwire.init("p") as run:
        run.log({"loss": 1.0, "sample": value})
    assert f"run.{call}" in caplog.text or f", {call}" in caplog.text
    assert "'sample'" in caplog.text
    assert scalars(root) == {"loss": [1.0]}


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


def _log_in_child(run: Run) -> None:
    run.log({"from_child": 1.0}, 5)
    run.log({"from_child": 2.0}, 6)
    os._exit(0)


@pytest.mark.process
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


def test_reading_the_whole_summary_looks_at_the_metrics_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dict(run.summary)` of many metrics is not quadratic; after finish the values are there."""
    looks = []
    last = MetricStore.last

    def count(self: MetricStore) -> dict[str, Any]:
        looks.append(1)
        return last(self)

    monkeypatch.setattr(MetricStore, "last", count)
    with runwire.init("p") as run:
        run.log({f"m{n}": float(n) for n in range(500)})
        looks.clear()
        assert dict(run.summary)["m7"] == 7.0
        assert len(looks) == 1
        run.log({"m7": 8.0})
        assert run.summary["m7"] == 8.0
    assert run.summary["m7"] == 8.0


def test_finish_event_counts_the_calls_that_failed(root: Path) -> None:
    """What the guard swallowed is stored by call, beside the points that were dropped."""
    run = runwire.init("p", name=Unprintable())  # type: ignore[arg-type]
    for _ in range(3):
        run.log_histogram("h", "no numbers")
    run.config.lr = 1
    run.config.lr = 2
    run.log({"bad": object()})
    run.finish()
    (end,) = [e for e in events(root) if isinstance(e, RunEvent) and e.event == "finished"]
    calls = {"call:init": 1, "call:log_histogram": 3, "call:config": 1}
    assert end.dropped == {"not_a_number": 1, **calls}


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("FAILED", "failed"),
        ("FINISHED", "finished"),
        ("KILLED", "interrupted"),
        ("Preempted", "preempted"),
    ],
)
def test_finish_takes_status_words_in_capitals(root: Path, given: str, status: str) -> None:
    """As MLflow writes them; a failed run is never recorded as finished."""
    runwire.init("p").finish(given)
    (end,) = [e for e in events(root) if isinstance(e, RunEvent) and e.event == "finished"]
    assert end.status == status


def test_set_tag_records_the_change_alone(root: Path) -> None:
    """Another process of the run has tags of its own, which this one must not take back."""
    run = runwire.init("p", tags={"a": "1"})
    run.set_tag("b", 2)
    run.add_tags("c")
    run.finish()
    runs = [e for e in events(root) if isinstance(e, RunEvent)]
    assert [e.tags for e in runs if e.tags] == [{"a": "1"}, {"b": "2"}, {"c": ""}]
    assert run.tags == {"a": "1", "b": "2", "c": ""}


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("log_dict", "log_artifact(json"),
        ("log_artifacts", "log_artifact(folder"),
        ("set_experiment", "init(project="),
        ("end_run", "finish()"),
        ("watch", "log_histogram"),
        ("add_scalar", "log({name: value}"),
        ("Image", "log_image"),
    ],
)
def test_name_of_another_tracker_is_answered_with_ours(root: Path, name: str, instead: str) -> None:
    """The AttributeError of package and run says what to use; other names have none."""
    with runwire.init("p") as run:
        for owner in (runwire, run):
            with pytest.raises(AttributeError, match=re.escape(f"use {instead}")):
                getattr(owner, name)
            with pytest.raises(AttributeError, match=r"no 'nonsense'$"):
                owner.nonsense  # noqa: B018


def test_unknown_argument_is_left_out_with_a_sentence(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Arguments of MLflow and wandb do not end a training; the call is kept."""
    with runwire.init("p") as run:
        runwire.log_metric("a", 1.0, timestamp=5)
        run.log_metric("b", 2.0, None, "too many", synchronous=True)  # type: ignore[call-arg]
        runwire.log_text("t", "name", artifact_file="x")
    assert scalars(root) == {"a": [1.0], "b": [2.0]}
    assert [e.name for e in events(root) if isinstance(e, LogEvent)] == ["name"]
    assert "no argument 'timestamp'; use log({name: value}, ts=SECONDS)" in caplog.text
    assert "takes at most 3 values" in caplog.text


def test_second_file_of_one_artifact_name_is_said(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two files into "plots" are two versions of one artifact, not a folder as in MLflow."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    with runwire.init("p") as run:
        run.log_artifact(tmp_path / "a.png", "plots")
        run.log_artifact(tmp_path / "a.png", "plots")
        assert "next version" not in caplog.text
        run.log_artifact(tmp_path / "b.png", "plots")
        run.log_artifact(tmp_path / "b.png", "plots")
    assert caplog.text.count("name='plots/b.png'") == 1
