"""Trainer whose calls are interrupted at one bytecode after the other, for `test_interrupts.py`.

    interrupted_trainer.py CALL KIND EVERY OFFSET LEDGER

Interrupts every EVERY-th bytecode of CALL, from OFFSET on. The ledger has one JSON line per
interrupted call: where, how it ended, and how the same call right after it did.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import runwire
from support.interrupting import Interruption

PATIENCE_S = 60.0
# So many calls of so many metrics fill the first segment of a run, 256 KiB.
ROLL_METRICS, ROLL_CALLS = 40, 695
SETTINGS = runwire.Settings(agent="none", capture_git=False, quota_bytes=2**36)

Trial = Callable[[int], Callable[[], Any]]


class Calls:
    """The calls by name: each takes the number of a trial and returns what to interrupt."""

    def __init__(self) -> None:
        self.run = self.start()

    def start(self) -> Any:
        return runwire.init("interrupts", settings=SETTINGS)

    def log(self, trial: int) -> Callable[[], Any]:
        """The hot path: ten known metrics."""
        data = {f"m{i}": float(trial) for i in range(10)}
        self.run.log(dict.fromkeys(data, -1.0))
        return lambda: self.run.log(data)

    def log_one(self, trial: int) -> Callable[[], Any]:
        """A record that is shorter than the one before it."""
        return lambda: self.run.log({"one": float(trial)}, trial)

    def log_roll(self, trial: int) -> Callable[[], Any]:
        """A call that opens the second segment of its run; the odd trials follow it there."""
        data = {f"m{i}": float(trial) for i in range(ROLL_METRICS)}
        if trial % 2:
            return lambda: self.run.log(data)
        self.run.finish()
        self.run = self.start()
        for _ in range(ROLL_CALLS):
            self.run.log(dict.fromkeys(data, -1.0))
        return lambda: self.run.log(data)

    def log_unusual(self, trial: int) -> Callable[[], Any]:
        """Nested values, texts, times, values that wait for their step."""
        data = {"a": {"b": trial, "c": None}, "note": f"t{trial}", "big": 2**70}

        def call() -> None:
            self.run.log(data, step=trial, commit=False)
            self.run.log({"d": float(trial)}, step=trial, ts=1e9 + trial)

        return call

    def finish(self, trial: int) -> Callable[[], Any]:
        """The end of a run with values that wait."""
        self.run = self.start()
        self.run.log({"m": float(trial)})
        self.run.log({"waits": float(trial), "note": "waits"}, commit=False)
        return self.run.finish  # type: ignore[no-any-return]

    def save_checkpoint(self, trial: int) -> Callable[[], Any]:
        return lambda: self.run.save_checkpoint(trial, model=_model(), metrics={"m": 1.0})

    def save_later(self, trial: int) -> Callable[[], Any]:
        return lambda: self.run.save_checkpoint(trial, model=_model(), asynchronous=True)

    def log_artifact(self, trial: int) -> Callable[[], Any]:
        return lambda: self.run.log_artifact(b"content", f"artifact-{trial}")


def _model() -> dict[str, Any]:
    import torch

    return {"weight": torch.ones(3)}


def positions(call: Trial, kind: str, every: int, offset: int) -> Iterator[int]:
    """The bytecodes to interrupt: of an ordinary call, and a tenth more for unusual ones."""
    call(0)()  # imports and first-use setup are of no interest
    count = 0
    for trial in (2, 4, 6):
        counted = Interruption(kind)
        counted.run(call(trial))
        count = max(count, counted.bytecodes)
    return iter(range(1 + offset % every, count + count // 10 + 1, every))


def again(call: Callable[[], Any], *, elsewhere: bool) -> str:
    """Make a call without an interrupt, maybe in another thread; return how it ended."""
    outcome = ["hangs"]

    def work() -> None:
        try:
            outcome[0] = _word(call())
        except BaseException as error:
            outcome[0] = repr(error)

    if not elsewhere:
        work()
    else:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
    return outcome[0]


def _word(result: Any) -> str:
    """How a call ended, by its result."""
    if isinstance(result, runwire.ArtifactRef):
        return "returned" if result.id else "lost"
    if hasattr(result, "wait"):
        return "returned" if result.wait(PATIENCE_S) else f"lost: {result.error}"
    return "returned"


def main() -> None:
    name, kind, every, offset, ledger = sys.argv[1:]
    # A trace function leaves the standard library's locks held wherever a `with` ends; only those
    # of the spool survive it, as do all where an exception comes the ordinary way.
    other_threads = kind != "trace" or not name.startswith(("save", "log_artifact"))
    calls = Calls()
    call: Trial = getattr(calls, name)
    with Path(ledger).open("w") as lines:
        for number, at in enumerate(positions(call, kind, int(every), int(offset))):
            trial = 10 + 2 * number
            interruption = Interruption(kind, at)
            interrupted = call(trial)
            outcome = interruption.run(interrupted)
            following = interrupted if name == "finish" else call(trial + 1)
            line = {
                "trial": trial,
                "at": at,
                "run_id": calls.run.id,
                "is_due": interruption.is_due,
                "outcome": outcome,
                "next": again(following, elsewhere=other_threads and number % 3 == 2),
            }
            lines.write(json.dumps(line) + "\n")
    calls.run.finish()
    assert "finish" not in calls.run.guard.counts, calls.run.guard.counts


if __name__ == "__main__":
    main()
