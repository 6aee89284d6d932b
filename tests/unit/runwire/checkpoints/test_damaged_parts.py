"""Damaged parts of ranks: a rank never falls back to an older step alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import runwire
from runwire.checkpoints.finding import Finder
from runwire.checkpoints.loading import load
from runwire.checkpoints.local import LocalCheckpoints
from runwire.run import Run
from runwire_store.catalog import Catalog
from runwire_store.layout import blob_key
from runwire_store.open import open_store
from support.uploads import UploadRig


@pytest.fixture
def ranks(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Two ranks of one job on one disk."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    runs = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setattr("runwire.start._started", 0)  # as in a process of its own
        runs.append(runwire.init("p", run_id="r", settings=runwire.Settings(strict=True)))
    return runs


def test_rank_with_a_damaged_part_does_not_fall_back_alone(
    ranks: list[Run], tmp_path: Path
) -> None:
    """It raises and names the step that all ranks can load."""
    for step in (1, 2):
        for rank, run in enumerate(ranks):
            file = tmp_path / f"{step}-{rank}.bin"
            file.write_bytes(b"part")
            run.log_checkpoint(file, step, kind="sharded")
    os.utime(tmp_path / "2-1.bin", ns=(0, 0))
    assert ranks[0].load_checkpoint("latest").step == 2
    told = r"part of rank 1 of checkpoint 2 .* written again .* load_checkpoint\(1\) on all ranks"
    with pytest.raises(runwire.CheckpointError, match=told):
        ranks[1].load_checkpoint("latest")
    with pytest.raises(runwire.CheckpointError, match="name an earlier step on all ranks"):
        ranks[1].load_checkpoint(2)
    assert [run.load_checkpoint(1).step for run in ranks] == [1, 1]
    for run in ranks:
        run.finish()


def test_node_with_a_damaged_copy_does_not_fall_back_alone(
    root: Path, run: Run, tmp_path: Path
) -> None:
    """Another node may have an undamaged copy of it on its own disk."""
    for step in (1, 2):
        file = tmp_path / "weights.bin"
        file.write_bytes(b"weights %d" % step)
        run.log_checkpoint(file, step)
    rig = UploadRig(root)
    rig.uploader.close()
    rig.store = open_store(None, root)
    rig.start()
    rig.work()
    rig.uploader.close()
    newest = Catalog(rig.store).checkpoint("p", "r", "latest").first
    rig.store.delete([blob_key(newest.digest)])
    file.unlink()
    told = r"copy of rank 0 of checkpoint 2 cannot be used: .* load_checkpoint\(1\) on all ranks"
    finder = Finder(
        settings=runwire.Settings.resolve({}),
        local=LocalCheckpoints(root / "checkpoints", "p", "r"),
        project="p",
        run_id="r",
        rank=0,
        world_size=2,
        only_stored=True,
    )
    with finder, pytest.raises(runwire.CheckpointError, match=told):
        load(finder, "latest", {}, strict=True, map_location=None)
    assert run.load_checkpoint("latest").step == 1  # of one machine: it may go back
