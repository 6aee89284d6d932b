"""Choice of a checkpoint where this disk and the store disagree."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import runwire
from runwire.checkpoints.finding import Finder
from runwire.checkpoints.local import LocalCheckpoints
from runwire.run import Run
from runwire_store.open import FOLDER
from runwire_store.store import StoreAway
from support.uploads import UploadRig


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "weights.bin"
    made.write_bytes(b"weights")
    return made


def finder(root: Path, **changes: object) -> Finder:
    return Finder(
        settings=runwire.Settings.resolve({}),
        local=LocalCheckpoints(root / "checkpoints", "p", "r"),
        project="p",
        run_id="r",
        rank=0,
        world_size=1,
        **changes,
    )


def steps(found: Finder, which: str | int) -> list[int]:
    with found:
        return [view.step for view in found.candidates(which)]


def test_nodes_with_own_disks_load_a_stored_checkpoint(root: Path, run: Run, file: Path) -> None:
    """Step 1 is in the store, step 2 only on this disk: another node could not load it."""
    run.log_checkpoint(file, 1, is_best=True)
    upload(root)
    run.log_checkpoint(file, 2, is_best=True)
    assert steps(finder(root), "latest") == [2, 1]
    assert steps(finder(root, only_stored=True), "latest") == [1]
    assert steps(finder(root, only_stored=True), "best") == [1]
    assert steps(finder(root, only_stored=True), 2) == [2]  # who names it means it


@pytest.mark.parametrize("which", ["latest", "best"])
def test_nodes_raise_when_the_store_is_unreachable(
    root: Path, run: Run, file: Path, monkeypatch: pytest.MonkeyPatch, *, which: str
) -> None:
    """Other nodes may lack this disk's checkpoint; None would silently start from scratch."""
    run.log_checkpoint(file, 1, is_best=True)

    def away(*_: object) -> None:
        raise StoreAway("no route to host")

    monkeypatch.setattr("runwire_store.open.open_store", away)
    with pytest.raises(
        runwire.CheckpointError,
        match=r"that all nodes .* the store is unreachable: no route .* RUNWIRE_CHECKPOINT_DIR",
    ):
        steps(finder(root, only_stored=True), which)
    assert steps(finder(root, only_stored=True), 1) == [1]  # who names it means it
    assert steps(finder(root), which) == [1]


def test_foreign_files_are_compared_with_the_stored_digest(
    root: Path, run: Run, file: Path
) -> None:
    """Size and time may stay when content changes: `cp -p`, or a failing disk."""
    run.log_checkpoint(file, 1)
    upload(root)
    written = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
    found = run.load_checkpoint("latest")
    assert (found.step, found.path.read_bytes()) == (1, b"weights")
    assert found.path != file
    assert file.read_bytes() == b"WEIGHTS"


def test_foreign_file_with_a_new_time_and_the_same_digest_is_loaded(
    root: Path, run: Run, file: Path
) -> None:
    """Copied back it has another time; its digest proves that it is the same."""
    run.log_checkpoint(file, 1)
    upload(root)
    os.utime(file, ns=(0, 0))
    assert run.load_checkpoint("latest").path == file


@pytest.mark.parametrize("away", [False, True], ids=["here", "from the store"])
def test_foreign_file_named_state_pt_is_not_read(
    root: Path, run: Run, file: Path, away: bool
) -> None:
    """No object was given: only the tool that wrote a foreign file can read it."""
    theirs = file.rename(file.with_name("state.pt"))
    run.log_checkpoint(theirs, 3)
    if away:
        upload(root)
        theirs.unlink()
        shutil.rmtree(root / "checkpoints")
    found = run.load_checkpoint("latest")
    assert (found.step, found.path.name, dict(found.state)) == (3, "state.pt", {})
    assert found.path.read_bytes() == b"weights"


def test_empty_disk_behind_brokers_logs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without keys of the store it is unknown whether the run was trained elsewhere."""
    monkeypatch.setenv("RUNWIRE_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with runwire.init("p", run_id="r", dir=tmp_path / "data") as run:
        assert run.load_checkpoint("latest") is None
    assert "cannot see the store that the object worker fills" in caplog.text
    assert "RUNWIRE_S3_ENDPOINT" in caplog.text


def test_load_from_an_unknown_run_raises_with_the_runs_that_exist(root: Path, run: Run) -> None:
    """A typo must not start training from scratch; a run without a checkpoint gives None."""
    for run_id in ("finetune-1", "finetune-2"):
        runwire.init("p", run_id=run_id).finish()
    runwire.init("other", run_id="finetune-3").finish()
    for which in ("latest", "best"):
        assert run.load_checkpoint(which, run_id="finetune-1") is None
        with pytest.raises(
            runwire.CheckpointError,
            match=r"no run 'finetun-1' in project 'p'.*did you mean 'finetune-1'\?",
        ) as raised:
            run.load_checkpoint(which, run_id="finetun-1")
    assert "'finetune-2', 'finetune-1'" in str(raised.value)
    assert "finetune-3" not in str(raised.value)


def test_load_from_a_run_that_only_the_store_knows_gives_none(
    root: Path, run: Run, file: Path
) -> None:
    """It was trained on another machine and kept an artifact, and no checkpoint yet."""
    with runwire.init("p", run_id="elsewhere") as other:
        other.log_artifact(file)
    upload(root)
    shutil.rmtree(root / "runs")
    assert run.load_checkpoint(run_id="elsewhere") is None
    with pytest.raises(runwire.CheckpointError, match="there is no run 'nowhere'"):
        run.load_checkpoint(run_id="nowhere")


def upload(root: Path) -> None:
    """Bring the outbox into the folder store, as the agent does."""
    from runwire_store.folder.store import FolderStore

    rig = UploadRig(root)
    rig.uploader.close()
    rig.store = FolderStore(root / FOLDER)
    rig.start()
    rig.work()
    rig.uploader.close()
