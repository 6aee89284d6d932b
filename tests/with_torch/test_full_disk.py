"""A disk that fills up during a save: a sentence, nothing half, earlier checkpoints load."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import runwire
from runwire.run import Run
from support.torch_here import torch

Start = Callable[..., Run]
MIB = 1024**2


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 24 MiB for the checkpoints alone."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the right to mount")
    monkeypatch.setenv("RUNWIRE_CHECKPOINT_DIR", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("compress", ["off", "zstd"])
def test_save_on_a_full_disk_fails_and_keeps_the_checkpoint_before(
    start: Start, disk: Path, caplog: pytest.LogCaptureFixture, *, asynchronous: bool, compress: str
) -> None:
    """The failure is counted and names the disk, no temporary file stays, step 1 still loads."""
    how = {"asynchronous": asynchronous}
    run = start(settings={"strict": False, "checkpoint_compress": compress})
    small, large = torch.rand(10 * MIB // 4), torch.rand(40 * MIB // 4)
    assert run.save_checkpoint(1, model={"w": small}, **how).wait()
    for step in (2, 3):
        saved = run.save_checkpoint(step, model={"w": large}, **how)
        assert not saved.wait()
        assert saved.error
    run.load_checkpoint()
    assert f"the disk of {disk}" in caplog.text
    assert "is full: this checkpoint was not saved" in caplog.text
    assert torch.equal(run.load_checkpoint("latest").model["w"], small)
    assert list(disk.rglob(".new-*")) == []
    (count,) = run.guard.counts.values()
    assert count == 2


def test_retention_frees_the_disk_after_each_save(start: Start, disk: Path) -> None:
    """With keep_last=1 a small disk lasts: the old checkpoint is deleted once the new is whole."""
    run = start(settings={"checkpoint_keep_last": 1})
    for step in range(5):
        run.save_checkpoint(step, model={"w": torch.rand(8 * MIB // 4)})
    assert run.load_checkpoint("latest").step == 4
    with pytest.raises(runwire.CheckpointError, match="complete ones: steps 4"):
        run.load_checkpoint(3)
