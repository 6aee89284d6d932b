"""Trainers killed while a large artifact is captured: acknowledged is committed and whole."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runwire_disk.outbox.request import (
    CAPTURE_LOCK,
    REQUEST_FILE,
    UploadRequest,
    content_path,
    outbox_dir,
)
from support.artifacts import artifact_events, folders_in

TRAINER = Path(__file__).parent / "trainers" / "logs_artifacts.py"
LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
MIB = 1024 * 1024
SIZE = 200
# Several captures long: kills fall into all parts of a call and between calls.
LAST_MOMENT_S = 1.5


def killed(root: Path, source: Path, after_s: float) -> dict[str, int]:
    """Let a trainer log until it is killed; return what it had acknowledged."""
    command = [sys.executable, str(TRAINER), str(source), str(SIZE)]
    environment = {**os.environ, "RUNWIRE_DIR": str(root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(after_s)
        child.kill()
        said = [line.split() for line in child.stdout if line.endswith("\n")]
    return {artifact: int(state) for state, artifact in said}


def state_of(folder: Path, request: UploadRequest) -> int:
    """Which state of the file was kept. Raises: AssertionError when it is of more than one."""
    (file,) = request.files
    path = content_path(folder, file.index)
    assert path.stat().st_size == file.size == SIZE * MIB
    with path.open("rb") as content:
        first = content.read(1)
        content.seek(0)
        for _ in range(SIZE):
            assert content.read(MIB) == first * MIB
    return first[0]


def check(root: Path, acknowledged: dict[str, int]) -> int:
    """Every folder is a whole artifact or visibly none; return how many are whole."""
    kept = {}
    for folder in folders_in(root):
        if (folder / REQUEST_FILE).exists():
            kept[folder.name] = state_of(folder, UploadRequest.read(folder))
        elif (folder / CAPTURE_LOCK).exists():
            with (folder / CAPTURE_LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody is at work there
    assert acknowledged.items() <= kept.items()
    # One call at most was committed and could not say so any more.
    assert len(kept) - len(acknowledged) <= 1
    said = {event.artifact for event in artifact_events(root)}
    assert acknowledged.keys() <= said
    return len(kept)


def rounds(tmp_path: Path, rng: random.Random, times: int) -> int:
    whole = 0
    for number in range(times):
        root = tmp_path / f"round-{number}"
        root.mkdir()
        whole += check(root, killed(root, root / "model.pt", rng.uniform(0.0, LAST_MOMENT_S)))
        shutil.rmtree(root)  # hundreds of MiB each
    return whole


def test_artifacts_are_whole_or_absent_after_two_kills(tmp_path: Path, seed: int) -> None:
    """Two kills at random moments of 200 MiB captures."""
    rounds(tmp_path, random.Random(f"{seed} outbox"), 2)


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="RUNWIRE_FAULTS=long runs it (make faults)")
def test_artifacts_are_whole_or_absent_after_thirty_kills(tmp_path: Path, seed: int) -> None:
    """Of thirty captures some must have come through, else nothing was tested."""
    assert rounds(tmp_path, random.Random(f"{seed} outbox for long"), 30) > 0


def test_check_finds_an_artifact_with_changed_content(tmp_path: Path) -> None:
    """The check of the other tests fails on content that was changed afterwards."""
    acknowledged: dict[str, int] = {}
    while not acknowledged:
        acknowledged = killed(tmp_path, tmp_path / "model.pt", 2 * LAST_MOMENT_S)
    artifact = next(iter(acknowledged))
    with content_path(outbox_dir(tmp_path) / artifact, 0).open("r+b") as content:
        content.seek(SIZE * MIB // 2)
        content.write(b"\xff")
    with pytest.raises(AssertionError):
        check(tmp_path, acknowledged)
