"""Which checkpoint is meant where a disk and a store do not say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

import runwire
from runwire.checkpoints.finding import Finder
from runwire.run import Run
from runwire_schemas.objects.open import FOLDER
from support.uploads import UploadRig


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "weights.bin"
    made.write_bytes(b"weights")
    return made


def finder(run: Run, **changes: object) -> Finder:
    session = run._session
    return Finder(
        settings=session.settings,
        local=run._saver().local,
        project="p",
        run_id="r",
        rank=0,
        world_size=1,
        **changes,
    )


def steps(found: Finder, which: str | int) -> list[int]:
    with found:
        return [view.step for view in found.candidates(which)]


def test_nodes_with_disks_of_their_own_load_what_all_can_see(
    root: Path, run: Run, file: Path
) -> None:
    """Step 1 is in the store, step 2 on this disk only: another node could not load it."""
    run.log_checkpoint(file, 1, is_best=True)
    upload(root)
    run.log_checkpoint(file, 2, is_best=True)
    assert steps(finder(run), "latest") == [2, 1]
    assert steps(finder(run, only_stored=True), "latest") == [1]
    assert steps(finder(run, only_stored=True), "best") == [1]
    assert steps(finder(run, only_stored=True), 2) == [2]  # who names it means it


def test_an_empty_disk_behind_brokers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without keys of the store nobody can tell whether the run was trained elsewhere."""
    monkeypatch.setenv("RUNWIRE_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with runwire.init("p", run_id="r", dir=tmp_path / "data") as run:
        assert run.load_checkpoint("latest") is None
    assert "cannot see the store that the object worker fills" in caplog.text
    assert "RUNWIRE_S3_ENDPOINT" in caplog.text


def upload(root: Path) -> None:
    """Bring the outbox into the folder store, as the agent does."""
    from runwire_schemas.objects.folder import FolderStore

    rig = UploadRig(root)
    rig.uploader.close()
    rig.store = FolderStore(root / FOLDER)
    rig.start()
    rig.work()
    rig.uploader.close()
