"""Attributes of a run: set by assignment and recorded, or reported as recorded nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import runwire
from support.spooled import run_events


def latest(root: Path, name: str) -> Any:
    """The last value of a field of the run events."""
    values = [getattr(event, name) for event in run_events(root, "r")]
    return [value for value in values if value is not None][-1]


def test_assigned_name_notes_and_group_are_recorded(root: Path) -> None:
    """The last value wins in the views."""
    with runwire.init("p", run_id="r", name="first") as run:
        run.name = "second"
        run.notes = "a note"
        run.group = "g"
        assert (run.name, run.notes, run.group) == ("second", "a note", "g")
    assert [latest(root, name) for name in ("name", "notes", "group")] == ["second", "a note", "g"]


def test_further_attempt_without_a_name_keeps_the_name(root: Path) -> None:
    """A run without any name is called by its id."""
    for name in (None, "night", None):
        with runwire.init("p", run_id="r", name=name):
            pass
    names = [event.name for event in run_events(root, "r") if event.event == "started"]
    assert sorted(names, key=str) == [None, "night", "r"]


def test_tags_are_recorded_by_item_and_by_assignment(root: Path) -> None:
    """As are wandb's `run.tags = run.tags + (...)` and `run.tags += (...)`."""
    with runwire.init("p", run_id="r", tags=["a"]) as run:
        run.tags["k"] = 5
        run.tags = {"b": "1"}
        run.tags += ("c",)
        run.set_tag("d", 2)
        del run.tags["a"]
        assert run.tags == {"a": "", "k": "5", "b": "1", "c": "", "d": "2"}
    changes = [event.tags for event in run_events(root, "r") if event.tags]
    assert changes[1] == {"k": "5"}  # only the change: other processes set tags of their own
    merged = {name: value for change in changes for name, value in change.items()}
    assert merged == {"a": "", "k": "5", "b": "1", "c": "", "d": "2"}
    assert run.guard.counts.pop("set_tags") == 1


def test_tag_values_are_converted_alike_on_every_way(root: Path) -> None:
    """A mapping is JSON, None the empty text; a name that fails leaves out its tag alone."""

    class Unnamed:
        """Fails as a tag's name."""

    with runwire.init("p", tags={"a": {"n": 1}, "none": None}) as run:
        run.tags["b"] = {"n": 1}
        run.tags = {Unnamed(): "x", "c": {"n": 1}}
        run.set_tag("d", None)
        run.set_tags({"e": None})
        assert run.tags == {
            **dict.fromkeys("abc", '{"n": 1}'),
            **dict.fromkeys(("none", "d", "e"), ""),
        }
        assert run.guard.counts.pop("set_tags") == 1


def test_assigned_config_and_summary_update_the_run(root: Path) -> None:
    """As with wandb, assignment sets the keys of a mapping."""
    with runwire.init("p", run_id="r") as run:
        run.config = {"lr": 0.1}
        run.summary = {"best": 2}
        assert run.config["lr"] == 0.1
    assert latest(root, "summary") == '{"best": 2}'


def test_unknown_attribute_is_reported_with_what_to_use(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It can be read back, but the sentence says that it is recorded nowhere."""
    with runwire.init("p") as run:
        run.best_acc = 0.9  # type: ignore[attr-defined]
        assert run.best_acc == 0.9  # type: ignore[attr-defined]
        run.step = 7  # type: ignore[misc]
        assert run.step == 0
    assert "run.summary['best_acc']" in caplog.text
    assert "run.step cannot be changed" in caplog.text
    assert run.guard.counts == {"run.best_acc": 1, "run.step": 1}
    run.guard.counts.clear()


def test_settings_give_group_parent_and_tags(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shell sweeps and Hydra launchers set variables; arguments of `init` win by key."""
    monkeypatch.setenv("RUNWIRE_GROUP", "sweep")
    monkeypatch.setenv("RUNWIRE_PARENT_RUN_ID", "parent")
    monkeypatch.setenv("RUNWIRE_TAGS", "night, model=small,size=1")
    with runwire.init("p", run_id="r", tags={"size": 2}):
        pass
    started = run_events(root, "r")[0]
    assert (started.group, started.parent_run_id) == ("sweep", "parent")
    assert started.tags == {"night": "", "model": "small", "size": "2"}
