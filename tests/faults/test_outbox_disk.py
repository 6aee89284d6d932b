"""Artifacts on a disk that is full, read-only or missing: a sentence, a count, nothing half."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import runwire
from runwire import Artifact
from runwire.run import Run
from runwire_disk.outbox.request import content_path, outbox_dir
from support.artifacts import artifact_events, contents, folders_in, requests

MIB = 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data root on a file system of 8 MiB, of which nothing is kept free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the right to mount")
    monkeypatch.setenv("RUNWIRE_DIR", str(folder))
    monkeypatch.setenv("RUNWIRE_DISK_FREE_RATIO_MIN", "0")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def sentences(caplog: pytest.LogCaptureFixture) -> list[str]:
    """One per lost artifact."""
    return [r.message for r in caplog.records if "log_artifact failed" in r.message]


def free(disk: Path) -> int:
    return shutil.disk_usage(disk).free


def refused(run: Run) -> int:
    return run.guard.counts.pop("log_artifact", 0)


def test_artifact_too_large_for_the_disk_leaves_no_byte(
    disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An artifact without room is refused whole; a smaller one is accepted afterwards."""
    (tmp_path / "large").write_bytes(os.urandom(16 * MIB))
    (tmp_path / "small").write_bytes(b"small")
    with runwire.init("p") as run:
        run.log_artifact(b"first", "first")
        before = free(disk)
        assert run.log_artifact(tmp_path / "large").route == "refused"
        assert run.log_artifact(bytes(16 * MIB), "bytes").route == "refused"
        assert free(disk) == before
        run.log_artifact(tmp_path / "small")
        run.log({"loss": 1.0})
        assert refused(run) == 2
    for name, said in zip(("large", "bytes"), sentences(caplog), strict=True):
        assert f"is full, so '{name}' was not kept. Free space there, or set RUNWIRE_DIR" in said
    assert [request.name for request in requests(disk)] == ["first", "small"]
    assert len(folders_in(disk)) == 2
    assert run.flush(0).dropped == {}


def test_copy_that_runs_out_of_space_leaves_no_byte(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the space during the copy: the system call fails, all else is equal."""
    monkeypatch.setattr("runwire.outbox.outbox.Space.room", lambda _: 2**40)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(16):
        (folder / str(number)).write_bytes(os.urandom(MIB))
    with runwire.init("p") as run:
        before = free(disk)
        run.log_artifact(folder)
        run.log_artifact(os.urandom(16 * MIB), "bytes")
        assert refused(run) == 2
        assert free(disk) == before
        run.log_artifact(b"small", "small")
    assert [contents(disk, request) for request in requests(disk)] == [{"small": b"small"}]


def test_artifact_is_absent_when_its_request_has_no_room(disk: Path) -> None:
    """The content fits to the last page and its request does not: the artifact is refused."""
    artifact = Artifact("many")
    for number in range(20_000):
        artifact.add_bytes(b"", f"{number:0100d}")
    with runwire.init("p") as run:
        before = free(disk)
        (disk / "filler").write_bytes(bytes(max(0, before - MIB)))
        run.log_artifact(artifact)
        assert refused(run) == 1
        (disk / "filler").unlink()
        assert free(disk) == before
    assert folders_in(disk) == []


def test_copies_leave_the_reserved_share_of_the_disk_free(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies keep the same share of the disk free as the spool."""
    monkeypatch.setenv("RUNWIRE_DISK_FREE_RATIO_MIN", "0.5")
    with runwire.init("p") as run:
        run.log_artifact(bytes(2 * MIB), "fits")
        run.log_artifact(bytes(3 * MIB), "does not")
        assert refused(run) == 1
    assert [request.name for request in requests(disk)] == ["fits"]


def test_training_continues_while_the_outbox_disk_is_read_only(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Artifacts are refused meanwhile, and accepted once the disk is writable again."""
    outbox = str(disk / "outbox")
    with runwire.init("p") as run:
        run.log_artifact(b"1", "before")
        # The spool's mapped files keep the whole disk writable; a part of it can be mounted apart.
        subprocess.run(["mount", "--bind", outbox, outbox], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", outbox], check=True)
        run.log_artifact(b"2", "meanwhile")
        assert refused(run) == 1
        subprocess.run(["umount", "--lazy", outbox], check=True)
        run.log_artifact(b"3", "after")
    said = sentences(caplog)[0]
    assert "cannot write to" in said
    assert "Set RUNWIRE_DIR to a local writable folder" in said
    assert [request.name for request in requests(disk)] == ["before", "after"]


def test_event_of_an_artifact_arrives_after_its_content_on_a_full_disk(disk: Path) -> None:
    """The spool's record waits in memory on a full disk; both are there in the end."""
    with runwire.init("p") as run:
        ref = run.log_artifact(b"1", "a")
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        assert run.log_artifact(b"2", "b").route == "refused"
        filler.unlink()
        last = run.log_artifact(b"3", "c")
        assert refused(run) == 1
    assert [event.artifact for event in artifact_events(disk)] == [ref.id, last.id]


@pytest.fixture
def cloning_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data root on XFS, which shares blocks; 400 MiB, of which hardly any are written."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    if not shutil.which("mkfs.xfs") or os.geteuid() != 0:
        pytest.skip("a file system that clones needs mkfs.xfs, root and the right to mount")
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    mount = ["mount", "-o", "loop", str(image), str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system that clones needs the right to mount")
    monkeypatch.setenv("RUNWIRE_DIR", str(folder / "data"))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def test_clones_share_space_and_keep_each_state_of_a_file(cloning_disk: Path) -> None:
    """More artifacts than would fit as copies, and each is the file as it was at its call."""
    path = cloning_disk / "model.pt"
    path.write_bytes(b"0" * 100 * MIB)
    with runwire.init("p") as run:
        for state in range(1, 7):
            run.log_artifact(path)
            with path.open("r+b") as file:
                file.write(b"%d" % state)
        assert refused(run) == 0
    root = cloning_disk / "data"
    kept = [content_path(outbox_dir(root) / r.artifact, 0) for r in requests(root)]
    assert [path.stat().st_size for path in kept] == [100 * MIB] * 6
    assert [first_byte(path) for path in kept] == [b"%d" % state for state in range(6)]
