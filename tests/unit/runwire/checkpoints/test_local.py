"""Local checkpoint folders: published whole, deleted whole, swept after dead writers."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from runwire.checkpoints.local import LocalCheckpoints
from runwire_store.manifest import Manifest
from support.stored import checkpoint


@pytest.fixture
def local(tmp_path: Path) -> LocalCheckpoints:
    return LocalCheckpoints(tmp_path / "checkpoints", "p", "r")


def add(local: LocalCheckpoints, number: int, **changes: object) -> Manifest:
    manifest = checkpoint(number, number, **changes)
    with local.writing(manifest.artifact) as hidden:
        (hidden / "state.pt").write_bytes(b"%d" % number)
        local.prepare(hidden, manifest)
        local.publish(hidden, manifest)
    return manifest


def names(local: LocalCheckpoints) -> list[str]:
    return sorted(
        path.name for path in local.folder.iterdir() if path.name not in (".lock", ".fetch")
    )


def test_parts_are_listed_by_step(local: LocalCheckpoints) -> None:
    """Folders are returned in the order of steps, whatever the order of saving."""
    assert local.parts() == []
    manifests = [add(local, number) for number in (3, 1, 20)]
    parts = local.parts()
    assert [part.manifest.artifact for part in parts] == [manifests[n].artifact for n in (1, 0, 2)]
    assert all((part.folder / "state.pt").exists() for part in parts)


def test_failed_save_leaves_no_folder(local: LocalCheckpoints) -> None:
    """An error while writing removes the hidden folder."""
    add(local, 1)
    before = names(local)
    with pytest.raises(IsADirectoryError), local.writing("a" * 32) as hidden:
        hidden.write_bytes(b"no file")
    assert names(local) == before


def die_while_writing(local: LocalCheckpoints) -> None:
    with local.writing("b" * 32) as hidden:
        (hidden / "state.pt").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_next_save_deletes_the_folder_of_a_dead_writer(local: LocalCheckpoints) -> None:
    """A killed writer's hidden folder is no checkpoint, and the next save sweeps it."""
    add(local, 1)
    process = multiprocessing.get_context("fork").Process(target=die_while_writing, args=[local])
    process.start()
    process.join()
    assert names(local)[0].startswith(".new-" + "b" * 32)
    assert [part.manifest.checkpoint.step for part in local.parts()] == [1]
    add(local, 2)
    assert [name[0] for name in names(local)] == ["0", "0"]


def test_sweep_spares_the_save_of_a_living_rank(local: LocalCheckpoints) -> None:
    """While one rank writes, another's save does not delete its folder."""
    with local.writing("c" * 32) as hidden:
        add(local, 1)
        assert hidden.is_dir()
        assert len(names(local)) == 2


def test_removing_a_part_twice_is_harmless(local: LocalCheckpoints) -> None:
    """A removed checkpoint is gone; removing it again, as another rank may, does nothing."""
    for number in (1, 2):
        add(local, number)
    first = local.parts()[0]
    local.remove(first)
    local.remove(first)  # another rank was faster
    assert [part.manifest.checkpoint.step for part in local.parts()] == [2]
    assert len(names(local)) == 1


def test_interrupted_removal_is_completed_by_the_next_save(local: LocalCheckpoints) -> None:
    """A folder that was renamed for deletion is no checkpoint and is swept."""
    manifest = add(local, 1)
    (local.folder / names(local)[0]).rename(local.folder / f".old-{manifest.artifact}-0")
    assert local.parts() == []
    add(local, 2)
    assert len(names(local)) == 1


def test_without_file_locks_nothing_is_swept(
    local: LocalCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems may refuse locks; saving works there nevertheless."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(38, "no locks here")

    add(local, 1)
    (local.folder / ".new-x").mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    add(local, 2)
    assert ".new-x" in names(local)
    assert len(local.parts()) == 2


@pytest.mark.parametrize("changes", [{"run_id": "other"}, {"project": "other"}])
def test_parts_of_other_runs_are_not_listed(
    local: LocalCheckpoints, changes: dict[str, str]
) -> None:
    """A folder copied from another run or project is left out."""
    add(local, 1, **changes)
    assert local.parts() == []
