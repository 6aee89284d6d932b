"""Trainers killed between any two system calls of a save: latest loads and is uploaded.

Every checkpoint that loads from the disk also has an upload request and an event in the spool.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runwire_disk.outbox.requests import OutboxRequests
from runwire_schemas.events import CheckpointEvent
from support import ptrace
from support.artifacts import events
from support.torch_here import torch

assert torch
SERVER = Path(__file__).parent / "trainers" / "kill_server.py"
# Kills per case in the short form; the long form kills at every system call.
SAMPLE = 16
WAYS = {
    "plain": {},
    "pruning": {"retention": True},
    "asynchronous": {"asynchronous": True},
}


class Trainers:
    """The process that forks trainers."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RUNWIRE_AGENT": "none"},
        )

    def ask(self, *command: Any) -> Any:
        self.tell(*command)
        return self.answer()

    def tell(self, *command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the trainers' process has ended"
        return json.loads(line)

    def save(self, root: Path, how: dict[str, Any], kill_at: int | None) -> tuple[int, bool]:
        """How many system calls a save began, and whether it returned."""
        _, pid = self.ask("save", str(root), how)
        calls = ptrace.run_until(int(pid), lambda: self.tell("go"), kill_at)
        said, _ = self.answer()
        return calls, said == "saved"


@pytest.fixture(scope="module")
def trainers() -> Iterator[Trainers]:
    if (why := ptrace.unavailable()) is not None:
        if os.environ.get("RUNWIRE_TEST_REQUIRE_SERVERS") == "1":
            pytest.fail(why)
        pytest.skip(why)
    found = Trainers()
    with found.process as process:
        yield found
        assert process.stdin is not None
        process.stdin.close()


def saved(root: Path) -> set[str]:
    """The checkpoints on this disk."""
    return {folder.name.partition("-")[2] for folder in root.glob("checkpoints/*/[0-9]*")}


def sent(root: Path) -> set[str]:
    """What an agent finds to upload."""
    return {request.artifact for _, request in OutboxRequests(root, lambda _: True).look()}


def recorded(root: Path) -> set[str]:
    """What the spool says of checkpoints."""
    return {event.artifact for event in events(root) if isinstance(event, CheckpointEvent)}


@pytest.mark.parametrize("way", WAYS)
def test_latest_loads_after_a_kill_at_any_system_call(
    trainers: Trainers, tmp_path: Path, seed: int, way: str
) -> None:
    """After each kill the latest checkpoint is whole, has an upload request, and has its event."""
    calls, returned = trainers.save(tmp_path / "whole", WAYS[way], None)
    assert returned
    assert saved(tmp_path / "whole") <= sent(tmp_path / "whole") & recorded(tmp_path / "whole")
    assert trainers.ask("load", str(tmp_path / "whole")) == {"step": 2, "same": True, "left": []}
    moments = list(range(1, calls + 1))
    if os.environ.get("RUNWIRE_FAULTS") != "long":
        moments = sorted(random.Random(seed).sample(moments, min(SAMPLE, calls)))
    steps = []
    for moment in moments:
        root = tmp_path / str(moment)
        _, returned = trainers.save(root, WAYS[way], moment)
        assert saved(root) <= sent(root) & recorded(root), (moment, calls)
        found = trainers.ask("load", str(root))
        assert found == {"step": found["step"], "same": True, "left": []}, (moment, calls, found)
        # What `save_checkpoint` returned for is there.
        assert found["step"] == 2 if returned else found["step"] in (1, 2), (moment, calls, found)
        steps.append(found["step"])
        shutil.rmtree(root)
    # One thread's save counts from one moment on; two threads count differently each time.
    assert steps == sorted(steps) or way == "asynchronous"
    assert set(steps) == {1, 2}, (calls, steps)
