"""Resuming on another machine from the store alone: a folder, or S3, without ClickHouse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import runwire
from runwire.run import Run
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.folder.store import FolderStore
from runwire_store.layout import BLOBS
from runwire_store.open import open_store
from runwire_store.store import StoreAway
from support.artifacts import requests
from support.checkpoints import local_parts
from support.torch_here import torch

Start = Callable[..., Run]
WAIT_S = 60
STEPS = 5


def sync(root: Path) -> None:
    """Let an agent upload everything in the outbox."""
    words = [sys.executable, "-m", "runwire_agent", "--dir", str(root), "--exit-when-idle-s", "0.3"]
    environ = os.environ | {"RUNWIRE_AGENT_STAY_S": "60"}
    done = subprocess.run(
        words, timeout=WAIT_S, capture_output=True, text=True, check=False, env=environ
    )
    assert not list((root / "outbox").iterdir()), done


def train(run: Run) -> torch.nn.Module:
    """A model, saved at each step; the third is the best."""
    model = torch.nn.Linear(4, 4)
    for step in range(STEPS):
        torch.nn.init.constant_(model.weight, step)
        run.save_checkpoint(step, model=model, metrics={"loss": abs(step - 2)}, is_best=step == 2)
    run.finish()
    return model


def check(run: Run, root: Path) -> None:
    for which, step in (("latest", 4), ("best", 2), (3, 3)):
        model = torch.nn.Linear(4, 4)
        found = run.load_checkpoint(which, model=model)
        assert (found.step, model.weight[0, 0].item()) == (step, step)
        assert found.path.is_relative_to(root)
    # From now on they are here too.
    assert len(local_parts(root)) == 3


def test_checkpoints_load_elsewhere_from_a_folder_store(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latest, best and a step load on a disk that has only the store."""
    train(start())
    sync(root)
    elsewhere = root.with_name("elsewhere")
    shutil.copytree(root / "objects", elsewhere / "objects")
    monkeypatch.setenv("RUNWIRE_DIR", str(elsewhere))
    check(start(), elsewhere)


def test_checkpoints_load_elsewhere_from_an_s3_store(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch, bucket: S3Settings
) -> None:
    """Compressed checkpoints load on a disk that has none, from S3."""
    for name, value in bucket.environment().items():
        monkeypatch.setenv(name, value)
    train(start(settings={"checkpoint_compress": "zstd"}))
    sync(root)
    elsewhere = root.with_name("elsewhere")
    monkeypatch.setenv("RUNWIRE_DIR", str(elsewhere))
    check(start(), elsewhere)


def test_damaged_local_checkpoint_is_replaced_from_the_store(start: Start, root: Path) -> None:
    """The whole copy is downloaded, loaded and kept in place of the damaged file."""
    run = start()
    saved = run.save_checkpoint(1, extra="whole")
    run.finish()
    sync(root)
    file = saved.path / "state.pt"
    file.unlink()  # the store may hold a second name of it
    file.write_bytes(b"damaged")
    assert start().load_checkpoint(1).extra == "whole"
    assert file.stat().st_size > 100


def test_damaged_stored_checkpoint_is_not_loaded(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latest falls back to the one before, and asking for the damaged step raises."""
    run = start()
    for step in (1, 2):
        saved = run.save_checkpoint(step, extra=step)
    digest = local_parts(root)[-1].manifest.files[0].sha256
    run.finish()
    sync(root)
    elsewhere = root.with_name("elsewhere")
    shutil.copytree(root / "objects", elsewhere / "objects")
    blob = elsewhere / "objects" / BLOBS / digest[:2] / digest
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    monkeypatch.setenv("RUNWIRE_DIR", str(elsewhere))
    run = start()
    assert run.load_checkpoint("latest").step == 1
    with pytest.raises(runwire.CheckpointError, match="its copy in the store failed"):
        run.load_checkpoint(2)
    assert saved.step == 2


def test_latest_is_the_newer_of_disk_and_store(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that still has an old checkpoint does not go back to it."""
    elsewhere = root.with_name("elsewhere")
    run = start()
    run.save_checkpoint(1, extra=1)
    run.finish()
    shutil.copytree(root, elsewhere)
    run = start()
    run.save_checkpoint(2, extra=2)
    run.finish()
    sync(root)
    shutil.rmtree(elsewhere / "outbox")
    shutil.copytree(root / "objects", elsewhere / "objects")
    monkeypatch.setenv("RUNWIRE_DIR", str(elsewhere))
    assert start().load_checkpoint("latest").step == 2


def test_load_raises_when_the_store_is_unreachable_and_the_disk_has_none(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It never starts from scratch then; a checkpoint on this disk is loaded, with a warning."""
    monkeypatch.setenv("RUNWIRE_S3_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("RUNWIRE_S3_ACCESS_KEY", "a")
    monkeypatch.setenv("RUNWIRE_S3_SECRET_KEY", "b")
    run = start()
    with pytest.raises(runwire.CheckpointError, match="it is unknown whether run 'r' has"):
        run.load_checkpoint("latest")
    run.save_checkpoint(1, extra=1)
    assert run.load_checkpoint("latest").step == 1
    assert "the store cannot be asked for newer checkpoints" in caplog.text


class Tearing(FolderStore):
    """A store whose connection breaks in the middle of content."""

    def get_file(self, key: str, path: Path, **_: object) -> None:
        raise StoreAway("the connection broke")


def test_load_raises_when_a_download_breaks_off(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer checkpoint that cannot be downloaded now does not make latest an older one."""
    run = start()
    for step in (1, 2):
        run.save_checkpoint(step, extra=step)
    run.finish()
    sync(root)
    run = start()
    shutil.rmtree(local_parts(root)[-1].folder)
    monkeypatch.setattr("runwire_store.open.open_store", lambda _, root: Tearing(root / "objects"))
    with pytest.raises(
        runwire.CheckpointError, match=r"checkpoint 2 .* cannot be downloaded .* now"
    ):
        run.load_checkpoint("latest")
    assert run.load_checkpoint(1).extra == 1


def test_ranks_on_one_disk_download_a_checkpoint_once(start: Start, root: Path) -> None:
    """Eight ranks load the same checkpoint, and one copy without leftovers is on the disk."""
    run = start()
    run.save_checkpoint(1, extra=list(range(1000)))
    run.finish()
    sync(root)
    shutil.rmtree(root / "checkpoints")
    run = start()
    with ThreadPoolExecutor(8) as ranks:
        found = list(ranks.map(lambda _: run.load_checkpoint("latest").extra, range(8)))
    assert found == [list(range(1000))] * 8
    (part,) = local_parts(root)
    assert [path.name for path in part.folder.parent.glob(".[no]*")] == []


def test_saves_after_resuming_are_latest_despite_a_clock_that_is_behind(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timestamps continue after those of the loaded checkpoint."""
    training = torch.nn.Linear(2, 2)
    parts = {"model": training, "optimizer": torch.optim.SGD(training.parameters(), 0.1)}
    start().save_checkpoint(1, **parts)
    behind = types.SimpleNamespace(time_ns=lambda: 1000, monotonic=time.monotonic)
    monkeypatch.setattr("runwire.checkpoints.saver.time", behind)
    run = start()
    run.load_checkpoint("latest", **parts)
    for step in (2, 3):
        run.save_checkpoint(step, **parts)
    assert run.load_checkpoint("latest").step == 3
    run.finish()
    stamps = [r.created_at_ns for r in requests(root)]
    assert stamps[1:] == [stamps[0] + 1, stamps[0] + 2]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_torch_dcp_folder_is_found_on_disk_and_in_the_store(
    start: Start, root: Path, tmp_path: Path
) -> None:
    """torch loads the folder that one rank logged, also after it was downloaded."""
    from torch.distributed import checkpoint as dcp

    run, folder = start(), tmp_path / "dcp"
    dcp.save({"model": {"w": torch.arange(6.0)}}, checkpoint_id=folder, no_dist=True)
    run.log_checkpoint(folder, step=3, kind="dcp", metrics={"loss": 1.0})
    run.finish()
    sync(root)
    run = start()
    assert run.load_checkpoint("latest").path == folder
    with pytest.raises(runwire.CheckpointError, match=r"torch\.distributed\.checkpoint\.load"):
        run.load_checkpoint("latest", model=torch.nn.Linear(1, 1))
    shutil.rmtree(folder)
    found = run.load_checkpoint("latest")
    assert (found.kind, found.step) == ("dcp", 3)
    state = {"model": {"w": torch.zeros(6)}}
    dcp.load(state, checkpoint_id=found.path, no_dist=True)
    assert torch.equal(state["model"]["w"], torch.arange(6.0))


def test_retention_applies_to_stored_checkpoints(start: Start, root: Path) -> None:
    """With keep_last=2 the store keeps the last two of five checkpoints."""
    run = start(settings={"checkpoint_keep_last": 2})
    for step in range(5):
        run.save_checkpoint(step, extra=step)
    run.finish()
    sync(root)
    from runwire_store.catalog import Catalog

    found = Catalog(open_store(None, root)).checkpoints("p", "r")
    assert [view.step for view in found] == [3, 4]
