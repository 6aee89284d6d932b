"""Damaged and hostile content: refused with a sentence, never run."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import runwire
from runwire.checkpoints.loading import read_checkpoint
from runwire.checkpoints.local import LocalPart
from runwire.checkpoints.state_file import digest_of, zstd_module
from runwire.run import Run
from runwire_store.manifest import FileEntry, Manifest
from support.artifacts import local_parts
from support.torch_here import torch

Start = Callable[..., Run]


class Executes:
    """A pickle of this runs a command where it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.proof}",)


def saved(run: Run, step: int) -> Path:
    done = run.save_checkpoint(step, model=torch.nn.Linear(4, 4), extra=step)
    assert done.path is not None
    return done.path


def disguise(folder: Path, content: bytes, *, name: str = "state.pt", raw_bytes: int = 0) -> None:
    """Replace a checkpoint's content and make its manifest agree, as an intruder would."""
    manifest = Manifest.from_json((folder / "manifest.json").read_bytes())
    for entry in manifest.files:
        (folder / entry.path).unlink()
    path = folder / name
    path.write_bytes(content)
    entry = FileEntry(path=name, size=len(content), sha256=digest_of(path))
    facts = replace(manifest.checkpoint, raw_bytes=raw_bytes or len(content))
    manifest = replace(manifest, files=(entry,), checkpoint=facts)
    (folder / "manifest.json").write_bytes(manifest.to_json())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("form", ["bare", "torch"])
def test_a_pickle_that_would_execute(start: Start, tmp_path: Path, form: str) -> None:
    run, proof = start(), tmp_path / "executed"
    saved(run, 1)
    folder, evil = saved(run, 2), tmp_path / "evil"
    if form == "bare":
        evil.write_bytes(pickle.dumps({"model": Executes(proof)}))
    else:
        torch.save({"model": Executes(proof)}, evil)
    disguise(folder, evil.read_bytes())
    with pytest.raises(runwire.CheckpointError, match="means executing code"):
        run.load_checkpoint("latest", model=torch.nn.Linear(4, 4))
    with pytest.raises(runwire.CheckpointError, match="means executing code"):
        read_checkpoint(folder)
    run.log_checkpoint(evil, step=3)
    with pytest.raises(runwire.CheckpointError, match="means executing code"):
        run.load_checkpoint(3, model=torch.nn.Linear(4, 4))
    assert not proof.exists()
    assert pickle.loads(pickle.dumps(Executes(proof))) == 0  # it would have
    assert proof.exists()


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def lose(path: Path, chance: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, cut, lose])
def test_damage_is_seen_and_the_one_before_is_loaded(
    start: Start,
    caplog: pytest.LogCaptureFixture,
    seed: int,
    damage: Callable[[Path, random.Random], None],
) -> None:
    run, chance = start(), random.Random(seed)
    saved(run, 1)
    for step in (2, 3):
        damage(saved(run, step) / "state.pt", chance)
    model = torch.nn.Linear(4, 4)
    assert run.load_checkpoint("latest", model=model).extra == 1
    assert "is loaded instead, that of step 1" in caplog.text
    with pytest.raises(runwire.CheckpointError, match=r"no checkpoint 3 can be loaded"):
        run.load_checkpoint(3, model=model)


def test_a_file_of_a_newer_runwire_says_so(start: Start, tmp_path: Path) -> None:
    """Half of it would load; the rest might be what makes the run go on right."""
    run = start()
    torch.save({"runwire": 2, "model": {}}, tmp_path / "newer.pt")
    folder = saved(run, 1)
    disguise(folder, (tmp_path / "newer.pt").read_bytes())
    with pytest.raises(runwire.CheckpointError, match=r"format 2 .* upgrade runwire"):
        run.load_checkpoint(1, model=torch.nn.Linear(4, 4))
    with pytest.raises(runwire.CheckpointError, match="upgrade runwire"):
        read_checkpoint(folder)


def test_nothing_whole_is_no_fresh_start(start: Start, seed: int) -> None:
    """Training from scratch because all checkpoints are damaged is for a person to decide."""
    run = start()
    flip(saved(run, 1) / "state.pt", random.Random(seed))
    with pytest.raises(runwire.CheckpointError, match="damaged"):
        run.load_checkpoint("latest")


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 200_000,
        b'{"format": 99}',
        json.dumps({"format": 1, "files": [{"path": "../../x"}]}).encode(),
    ],
)
def test_a_damaged_manifest_hides_its_checkpoint_only(
    start: Start, caplog: pytest.LogCaptureFixture, manifest: bytes
) -> None:
    run = start()
    saved(run, 1)
    folder = saved(run, 2)
    (folder / "manifest.json").write_bytes(manifest)
    assert run.load_checkpoint("latest").step == 1
    assert f"cannot be read and is skipped: {folder}" in caplog.text
    shutil.rmtree(local_parts()[0].folder)
    with pytest.raises(runwire.CheckpointError, match="has checkpoints, but none can be read"):
        run.load_checkpoint("latest")


def test_a_manifest_that_names_a_file_elsewhere(start: Start, tmp_path: Path) -> None:
    """Only files below the checkpoint's own folder, or by reference, are ever read."""
    run = start()
    saved(run, 1)
    folder = saved(run, 2)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"state.pt"', '"../../state.pt"'))
    assert run.load_checkpoint("latest").step == 1


def test_a_bomb_stops_where_the_manifest_says(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = start(settings={"checkpoint_compress": "zstd"})
    folder = saved(run, 1)
    bomb = zstd_module().compress(bytes(1 << 30))
    assert len(bomb) < 1 << 20
    disguise(folder, bomb, name="state.pt.zst", raw_bytes=1 << 20)
    with pytest.raises(runwire.CheckpointError, match="decompresses to more than the 1048576"):
        run.load_checkpoint(1)
    disguise(folder, bomb, name="state.pt.zst", raw_bytes=1 << 60)
    with pytest.raises(runwire.CheckpointError, match="there is room for"):
        run.load_checkpoint(1)


@pytest.mark.parametrize(
    "run_id", ["../../up", "/etc/x", "a:b", "x" * 200, "ü" * 200, "日本 語", "."]
)
def test_run_ids_are_no_paths(start: Start, root: Path, tmp_path: Path, run_id: str) -> None:
    run = start(run_id=run_id)
    folder = saved(run, 5)
    assert folder.is_relative_to(root / "checkpoints")
    assert run.load_checkpoint("latest").step == 5
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize("step", [-1, 1.5, "7", None, 2**63, float("nan")])
def test_steps_that_are_none(start: Start, step: object) -> None:
    run = start()
    with pytest.raises((runwire.CheckpointError, ValueError)):
        run.save_checkpoint(step, extra=1)
    assert run.load_checkpoint() is None


def test_files_are_for_their_owner(start: Start) -> None:
    folder = saved(start(), 1)
    assert [path.stat().st_mode & 0o077 for path in (folder, folder.parent)] == [0, 0]


def test_a_part_of_another_run_is_not_taken(start: Start, root: Path) -> None:
    """A folder that was copied to another run's place does not become its checkpoint."""
    folder = saved(start(run_id="one"), 1)
    other = saved(start(run_id="two"), 0).parent
    folder.rename(other / folder.name)
    start(run_id="two")
    parts: list[LocalPart] = local_parts(run_id="two")
    assert [part.manifest.run_id for part in parts] == ["two"]
