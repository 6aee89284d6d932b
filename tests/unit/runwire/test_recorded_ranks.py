"""Ranks whose metrics are recorded: all by default; what is left out is counted and logged once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import runwire
from runwire.recorded_ranks import parse_ranks
from runwire_schemas.events import MetricBatch
from support.spooled import events, points, run_events


def start(monkeypatch: pytest.MonkeyPatch, rank: int, **arguments: object) -> runwire.Run:
    """A run of one rank of four."""
    for name, value in {
        "RANK": rank, "WORLD_SIZE": 4, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 4,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    return runwire.init("p", run_id="r", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ranks", "recorded"),
    [
        (None, [0, 1, 2, 3]),
        ("all", [0, 1, 2, 3]),
        ("zero", [0]),
        ([0, 3], [0, 3]),
        (2, [2]),
        ("1,3", [1, 3]),
    ],
)
def test_ranks_chooses_whose_metrics_are_recorded(
    root: Path, monkeypatch: pytest.MonkeyPatch, ranks: object, recorded: list[int]
) -> None:
    """Every rank by default; the others show their step and count what they leave out."""
    for rank in range(4):
        with start(monkeypatch, rank, ranks=ranks) as run:
            run.log({"a": 1.0, "b": 2.0}, 10)
    batches = [event for event in events(root) if isinstance(event, MetricBatch)]
    assert sorted(event.rank for event in batches if event.value) == recorded
    ends = [event for event in run_events(root, "r") if event.event == "finished"]
    assert [event.last_step for event in ends] == [10] * 4
    dropped = {event.rank: event.dropped for event in ends}
    assert {rank for rank, reasons in dropped.items() if reasons} == {0, 1, 2, 3} - set(recorded)
    assert all(reasons in ({}, {"rank_not_recorded": 2}) for reasons in dropped.values())


def test_variable_chooses_ranks_and_argument_wins(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUNWIRE_RANKS is the default of `ranks`."""
    monkeypatch.setenv("RUNWIRE_RANKS", "zero")
    with start(monkeypatch, 1) as run:
        run.log({"left_out": 1.0})
    with start(monkeypatch, 1, ranks="all") as run:
        run.log({"kept": 1.0})
    assert [name for (_, name) in points(root)] == ["kept"]


def test_lowest_rank_that_is_left_out_logs_it_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in a job, however many ranks and calls."""
    with caplog.at_level(logging.WARNING, "runwire"):
        for rank in range(4):
            with start(monkeypatch, rank, ranks=[1]) as run:
                run.log({"a": 1.0})
                run.log({"a": 1.0})
    assert [record.message.partition(":")[2][:22] for record in caplog.records] == [
        " metrics of rank 0 and"
    ]


@pytest.mark.parametrize("value", ["", "some", "-1", "0,x", [], [-1], [0.5], True, [True], None])
def test_wrong_ranks_are_refused(value: object) -> None:
    """The settings table turns the exception into a sentence."""
    with pytest.raises((ValueError, TypeError)):
        parse_ranks(value)
