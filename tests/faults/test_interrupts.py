"""Calls interrupted at one bytecode after the other: the next call works, the spool is intact."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from faults import results
from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_schemas import codec
from runwire_schemas.events import LogEvent, MetricBatch, RunEvent
from support.interrupting import KINDS

TRAINER = Path(__file__).parent / "interrupted_trainer.py"
IS_LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
# Every so many bytecodes, in the short form and in the long one: some calls have thousands, and
# end a run or write files each time.
STRIDES = {
    "log": (3, 1),
    "log_one": (3, 1),
    "log_unusual": (23, 1),
    "log_roll": (97, 1),
    "finish": (211, 5),
    "log_artifact": (97, 5),
    "save_checkpoint": (397, 5),
    "save_later": (211, 5),
}
# The metric that holds the number of the trial.
METRICS = {"log": "m0", "log_one": "one", "log_unusual": "d", "log_roll": "m0", "finish": "m"}
TIMEOUT_S = 3600 if IS_LONG else 300
MEANINGS = {
    "keyboard": "Ctrl-C",
    "handler": "a signal handler raises TimeoutError",
    "trace": "a trace function raises",
    "sent": "another thread sends an exception",
}


@pytest.fixture(scope="module")
def table(seed: int) -> Iterator[list[str]]:
    """Rows of the README, which is replaced when asked to."""
    rows: list[str] = []
    yield rows
    if os.environ.get(results.VARIABLE):
        form = "long" if IS_LONG else "short"
        command = (
            f"RUNWIRE_FAULTS={form} {results.VARIABLE}=1 RUNWIRE_TEST_SEED={seed} python -m pytest "
            "tests/faults/test_interrupts.py"
        )
        columns = (
            "call",
            "interrupted by",
            "n",
            "interrupted",
            "reached the caller",
            "came in a destructor, where Python ignores it",
            "**next call failed**",
            "**damaged stretches**",
        )
        head = [
            "## Interrupts",
            "",
            "`interrupted_trainer.py` makes one call again and again, and lets an exception come",
            "up at one bytecode of it after the other. No logged point was lost or damaged.",
            "",
            "```",
            command,
            "```",
            "",
            f"Python {platform.python_version()}; every *n*-th bytecode, from a seeded one on.",
            "",
            f"| {' | '.join(columns)} |",
            "|---|---|" + "---:|" * 6,
        ]
        results.replace_part("interrupts", "\n".join([*head, *rows, ""]))


@dataclass
class Left:
    """What the trainer left in its spool."""

    damage: list[Any] = field(default_factory=list)
    # (run id, metric, value), and (writer, number of the call).
    values: Counter[tuple[str, str, float]] = field(default_factory=Counter)
    calls: Counter[tuple[str, int]] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, int | None] = field(default_factory=dict)
    texts: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def of(cls, root: Path) -> Left:
        left = cls()
        for folder in list_folders(root):
            reader = FolderReader(folder, sync=False)
            while cuts := reader.cut():
                for cut in cuts:
                    left.damage += cut.damage
                    left.take(codec.decode(cut.value))
            reader.close()
        return left

    def take(self, event: Any) -> None:
        if isinstance(event, MetricBatch):
            names = (event.names[index] for index in event.name_idx)
            pairs = zip(names, event.value, strict=True)
            self.values.update((event.run_id, name, value) for name, value in pairs)
            self.calls.update((event.writer, seq) for seq in event.call_seq)
            self.points[event.run_id] += len(event.value)
        elif isinstance(event, LogEvent):
            self.texts[event.run_id, event.text] += 1
        elif isinstance(event, RunEvent) and event.event == "finished":
            self.accepted[event.run_id] = event.accepted


def interrupted(root: Path, call: str, kind: str, seed: int) -> list[dict[str, Any]]:
    """Run the trainer to its end; return its ledger."""
    environ = os.environ | {"RUNWIRE_DIR": str(root), "PYTHONPATH": str(TRAINER.parents[1])}
    every = STRIDES[call][IS_LONG]
    ledger = root.with_suffix(".ledger")
    arguments = [call, kind, str(every), str(seed % every), str(ledger)]
    ended = subprocess.run(
        [sys.executable, str(TRAINER), *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ledger.read_text().splitlines()]


@pytest.mark.parametrize("case", [f"{call}-{kind}" for call in STRIDES for kind in KINDS])
def test_interrupted_call_leaves_everything_usable(
    case: str, tmp_path: Path, seed: int, table: list[str]
) -> None:
    """An exception at any bytecode of a call reaches the caller; the same call right after it
    works, in this thread or another; no point is lost, stored twice or damaged."""
    call, _, kind = case.partition("-")
    if call.startswith("save"):
        pytest.importorskip("torch")
    root = tmp_path / "data"
    ledger = interrupted(root, call, kind, seed)
    assert sum(line["is_due"] for line in ledger) >= len(ledger) // 2 > 0
    swallowed = [line for line in ledger if line["is_due"] and line["outcome"] == "returned"]
    assert not swallowed
    failed = [line for line in ledger if line["next"] != "returned"]
    assert failed == []
    left = Left.of(root)
    assert left.damage == []
    assert [key for key, count in left.calls.items() if count > 1] == []
    assert {run: left.points[run] for run in left.accepted} == left.accepted
    for line in ledger:
        if (metric := METRICS.get(call)) is not None:
            check_points(left, metric, line, ends=call == "finish")
    due = Counter(line["outcome"] for line in ledger if line["is_due"])
    counted = (due.total(), due["raised"], due["ignored"], len(failed), len(left.damage))
    figures = (STRIDES[call][IS_LONG], *counted)
    cells = " | ".join(f"{figure:,}" for figure in figures)
    table.append(f"| `{call}` | {MEANINGS[kind]} | {cells} |")


def check_points(left: Left, metric: str, line: dict[str, Any], *, ends: bool) -> None:
    """The interrupted call is stored once or not at all, the next one once."""
    run, trial = line["run_id"], line["trial"]
    found = left.values[run, metric, float(trial)]
    if ends:
        assert found == 1, line
        # Values that wait are stored again rather than lost, at the same step.
        assert left.values[run, "waits", float(trial)] >= 1, line
        assert left.texts[run, "waits"] >= 1, line
        assert run in left.accepted, line
        return
    assert found <= 1, line
    assert found == 1 or line["is_due"], line
    following = left.values[run, metric, float(trial + 1)]
    assert following == 1, line
