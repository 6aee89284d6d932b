"""Full disk, quota, unwritable and deleted spool: training continues, a sentence says what to do.

`log` never raises here; every point is stored or counted as dropped with its reason.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runwire
from runwire.metrics.flush import FlushReport
from runwire_disk.spool.format import DROPPED_AFTER_ACCEPTED, SpoolError
from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_schemas import codec
from runwire_schemas.events import MetricBatch, ParamEvent, RunEvent

WIDTH = 10
MANY = 12_000  # calls of WIDTH points: more than 1 MiB of spool


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Space and folder are looked at on every call, so that no test has to wait for it."""
    monkeypatch.setattr("runwire.metrics.log.CHECK_INTERVAL_NS", -1)
    monkeypatch.setattr("runwire_disk.spool.quota._RETRY_INTERVAL_S", 0.0)


def fill(folder: Path) -> Path:
    """Write a file until nothing more fits; returns it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    return filler


def train(run: runwire.Run, calls: int) -> int:
    """Log `calls` times WIDTH points; returns the number of points."""
    for step in range(calls):
        run.log({f"m{index}": float(step) for index in range(WIDTH)}, step)
    return calls * WIDTH


def events(root: Path) -> list[Any]:
    """Everything that a reader still finds."""
    found = []
    for folder in list_folders(root):
        reader = FolderReader(folder)
        while cuts := reader.cut():
            assert not any(cut.damage for cut in cuts)
            found += [codec.decode(cut.value) for cut in cuts]
        reader.close()
    return found


def stored(root: Path) -> tuple[int, list[RunEvent]]:
    """Points and run events that a reader still finds."""
    found = events(root)
    points = sum(len(event.value) for event in found if isinstance(event, MetricBatch))
    return points, [event for event in found if isinstance(event, RunEvent)]


def assert_accounted(logged: int, report: FlushReport, *reasons: str) -> None:
    """What is not in the spool is counted, and only as these reasons."""
    assert set(report.dropped) == set(reasons)
    assert report.pending + report.acked + sum(report.dropped.values()) == logged
    kept = sum(report.dropped.get(reason, 0) for reason in DROPPED_AFTER_ACCEPTED)
    assert report.spooled == report.pending + report.acked + kept


@pytest.mark.usefixtures("looks_often")
def test_full_disk_refuses_and_counts_points_until_space_is_freed(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process fills the disk: points are refused and counted until space is freed."""
    run = runwire.init("faults", dir=small_disk)
    logged = train(run, 100)
    filler = fill(small_disk)
    logged += train(run, MANY)
    refused = run.flush(0)
    assert_accounted(logged, refused, "disk_full")
    assert "is full" in caplog.text
    assert "Free space on the disk of" in caplog.text
    assert caplog.text.count("disk_full") == 1
    filler.unlink()
    logged += train(run, 100)
    report = run.finish()
    assert report.dropped == refused.dropped
    points, lifecycle = stored(small_disk)
    assert points == logged - report.dropped["disk_full"]
    assert [event.event for event in lifecycle] == ["started", "finished"]
    assert lifecycle[-1].dropped == report.dropped


@pytest.mark.usefixtures("looks_often")
def test_lifecycle_records_wait_in_memory_for_space(small_disk: Path) -> None:
    """Parameters are never dropped for want of space: they wait in memory and arrive later."""
    run = runwire.init("faults", dir=small_disk)
    filler = fill(small_disk)
    for number in range(60):  # more than the lifecycle segment has room for
        run.log_param(f"p{number}", "x" * 8000)
    assert run.flush(0).waiting > 0
    assert run.flush(0).dropped == {}
    filler.unlink()
    run.log_param("last", 1)
    assert run.flush(0).waiting == 0
    run.finish()
    found = [event.key for event in events(small_disk) if isinstance(event, ParamEvent)]
    assert found == [*(f"p{number}" for number in range(60)), "last"]


@pytest.mark.usefixtures("looks_often")
def test_small_disk_keeps_the_newest_points(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the spool fills the disk and no reader runs, the oldest points are dropped and counted."""
    run = runwire.init("faults", dir=small_disk)
    logged = train(run, 3 * MANY)
    report = run.finish()
    assert_accounted(logged, report, "evicted")
    assert "points gave way to newer ones" in caplog.text
    assert "Free space on the disk of" in caplog.text
    assert stored(small_disk)[0] == report.pending > 0


@pytest.mark.usefixtures("looks_often")
def test_spool_at_its_quota_keeps_newest_points_and_lifecycle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a reader the spool stays within its quota and drops the oldest points, counted."""
    quota = 1024**2
    monkeypatch.setenv("RUNWIRE_QUOTA_BYTES", str(quota))
    run = runwire.init("faults", dir=tmp_path)
    logged = train(run, 3 * MANY)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.seg")) <= quota
    report = run.finish()
    assert_accounted(logged, report, "evicted")
    assert "points gave way to newer ones" in caplog.text
    assert "Start `runwire up` so that the spool is read, or raise RUNWIRE_QUOTA_BYTES" in (
        caplog.text
    )
    points, lifecycle = stored(tmp_path)
    assert points == report.pending > 0
    assert [event.event for event in lifecycle] == ["started", "finished"]


@pytest.mark.usefixtures("looks_often")
def test_spool_at_its_quota_refuses_points_while_a_reader_is_slow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No segment is deleted under a reader: new points are refused and counted instead."""
    monkeypatch.setenv("RUNWIRE_QUOTA_BYTES", str(1024**2))
    run = runwire.init("faults", dir=tmp_path)
    logged = train(run, 10)
    reader = FolderReader(list_folders(tmp_path)[0])
    logged += train(run, 3 * MANY)
    report = run.finish()
    reader.close()
    assert_accounted(logged, report, "quota")
    assert "log: quota failed" in caplog.text
    assert stored(tmp_path)[0] == report.pending > 0


@pytest.mark.usefixtures("looks_often")
def test_live_trainer_makes_a_new_spool_when_its_folder_is_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new folder takes the next points, the lost ones are counted, and a warning is logged."""
    run = runwire.init("faults", dir=tmp_path)
    logged = train(run, 100)
    shutil.rmtree(tmp_path / "spool")
    logged += train(run, 100)
    report = run.finish()
    assert_accounted(logged, report, "spool_lost")
    assert "was deleted while this run wrote to it" in caplog.text
    assert "runwire delete RUN" in caplog.text
    assert stored(tmp_path)[0] == report.pending == 100 * WIDTH


@pytest.mark.usefixtures("looks_often")
def test_points_count_as_lost_until_a_deleted_spool_can_be_remade(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Points are counted as lost while no folder can be made, and stored once one can."""
    run = runwire.init("faults", dir=tmp_path / "root")
    logged = train(run, 100)
    shutil.rmtree(tmp_path / "root")
    (tmp_path / "root").write_text("in the way")
    logged += train(run, 100)
    assert "cannot make a spool folder in" in caplog.text
    assert "Give a writable local folder" in caplog.text
    (tmp_path / "root").unlink()
    logged += train(run, 100)
    report = run.finish()
    assert_accounted(logged, report, "spool_lost", "unwritable")
    assert stored(tmp_path / "root")[0] == report.pending == 100 * WIDTH


def test_init_refuses_an_unwritable_spool_with_a_sentence(tmp_path: Path) -> None:
    """The sentence names the folder and what to give instead, before training begins."""
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"cannot make a spool folder in .*: Not a directory"):
        runwire.init("faults", dir=tmp_path / "file" / "below")
    with pytest.raises(SpoolError, match=r"Give a writable local folder .* dir= or RUNWIRE_DIR"):
        runwire.init("faults", dir=tmp_path / "file")


def test_init_refuses_a_read_only_file_system(small_disk: Path) -> None:
    """The operating system's reason is in the sentence."""
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    with pytest.raises(SpoolError, match="Read-only file system"):
        runwire.init("faults", dir=small_disk)
