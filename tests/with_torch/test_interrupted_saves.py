"""Interrupts inside `save_checkpoint` and `log_artifact`, between any two instructions.

A random sample of the moments; with RUNWIRE_FAULTS=long every one.
"""

from __future__ import annotations

import dis
import functools
import gc
import itertools
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from runwire.run import Run
from runwire_disk.outbox.request import REQUEST_FILE
from support.artifacts import folders_in
from support.checkpoints import local_parts
from support.torch_here import torch

# Between `open` and `with` a file is closed by the loss of its object.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
Start = Callable[..., Run]
LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
MOMENTS = 12
# Code of the standard library that our calls run through.
STDLIB = ("contextlib.py", "pathlib.py", "shutil.py", "threading.py")


class OverdueError(Exception):
    """Raised by a handler of the user."""


@functools.cache
def stops_of_signals(code: CodeType) -> frozenset[int]:
    """The offsets of a function at which Python looks for signals."""
    found, before = set(), ""
    for instruction in dis.get_instructions(code):
        if before.startswith(("CALL", "JUMP_BACKWARD", "RESUME")):
            found.add(instruction.offset)
        before = instruction.opname
    return frozenset(found)


class Striker:
    """Raises at one instruction of our code, as a signal handler does between two of them."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.at, self.error, self.seen, self.place = at, error, 0, ""

    def __call__(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("runwire") or frame.f_code.co_filename.endswith(STDLIB):
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return self.strike
        return None

    def strike(self, frame: FrameType, event: str, _arg: Any) -> Any:
        # Between the block of a `with` and its end only a trace function can raise; there it leaves
        # the locks of Python's own `threading` held, and no thread starts any more.
        code = frame.f_code
        is_locking = code.co_filename.endswith("threading.py")
        if event == "opcode" and (not is_locking or frame.f_lasti in stops_of_signals(code)):
            if self.seen == self.at:
                sys.settrace(None)
                self.place = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
                raise self.error
            self.seen += 1
        return self.strike


def strike(call: Callable[[], Any], at: int, error: type[BaseException]) -> tuple[Striker, bool]:
    """Run a call with an interrupt at one moment; return whether that reached the caller."""
    striker, before = Striker(at, error), sys.gettrace()
    # A collection during the call would run destructors of earlier tests, and Python itself
    # swallows what is raised in those.
    gc.disable()
    sys.settrace(striker)
    try:
        call()
    except error:
        return striker, True
    finally:
        sys.settrace(before)
        gc.enable()
    return striker, False


def struck(call: Callable[[], Any], seed: int, error: type[BaseException]) -> Iterator[str]:
    """Strike a call at one moment after the other; yield each place when that reached the user."""
    for _ in range(3):  # modules are loaded by the first one, and old checkpoints go with a later
        call()
    if LONG:
        moments: Iterable[int] = itertools.count()
    else:
        striker, _ = strike(call, -1, error)
        assert striker.seen > 1000
        moments = random.Random(seed).sample(range(striker.seen), MOMENTS)
    for moment in moments:
        striker, has_reached = strike(call, moment, error)
        assert has_reached or not striker.place, striker.place
        yield striker.place
        if LONG and not striker.place:
            return  # the call ended before


def half_made(root: Path) -> list[Path]:
    """Folders of the outbox that nobody works on; the others are uploaded and gone."""
    left = []
    for folder in folders_in(root):
        if not (folder / REQUEST_FILE).exists():
            left.append(folder)
        shutil.rmtree(folder)
    return left


@pytest.mark.parametrize("error", [OverdueError, KeyboardInterrupt])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_interrupt_between_any_two_instructions_of_a_save_reaches_the_user(
    start: Start, root: Path, seed: int, *, asynchronous: bool, error: type[BaseException]
) -> None:
    """Nothing half remains, nothing is counted as a failure, and the next save works."""
    run, step = start(settings={"strict": False}), 0
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def save() -> Any:
        nonlocal step
        step += 1
        rules = {"keep_last": 2}
        extra = {"epoch": step, "path": root}
        return run.save_checkpoint(
            step,
            model=model,
            optimizer=optimizer,
            extra=extra,
            retention=rules,
            asynchronous=asynchronous,
        )

    for place in struck(save, seed, error):
        assert run.guard.counts == {}, place
        assert save().wait(), place
        run.load_checkpoint()  # waits for what an interrupted call may have begun
        parts = local_parts(root)
        assert parts[-1].manifest.checkpoint.step == step
        hidden = [path.name for path in parts[-1].folder.parent.glob(".[no]*")]
        assert hidden == [], place
        assert half_made(root) == [], place


@pytest.mark.parametrize("error", [OverdueError, KeyboardInterrupt])
def test_interrupt_between_any_two_instructions_of_an_artifact_reaches_the_user(
    start: Start, root: Path, seed: int, *, error: type[BaseException]
) -> None:
    """The outbox has the whole artifact or no trace of it, and the next call works."""
    run, file = start(settings={"strict": False}), root.with_name("file")
    file.write_bytes(b"content")

    def log() -> Any:
        return run.log_artifact(file)

    for place in struck(log, seed, error):
        assert run.guard.counts == {}, place
        assert half_made(root) == [], place
        assert log().route == "direct", place
