"""Damaged and hostile checkpoints: refused with a sentence, never executed."""

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
from runwire.checkpoints.state_file import digest_of, zstd_module
from runwire.run import Run
from runwire_store.manifest import FileEntry, Manifest
from support.checkpoints import local_parts
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
def test_pickle_that_executes_code_is_refused_and_never_run(
    start: Start, tmp_path: Path, form: str
) -> None:
    """Whatever way it comes, as ours or as a foreign file, the command in it does not run."""
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
def test_latest_falls_back_to_the_checkpoint_before_a_damaged_one(
    start: Start,
    caplog: pytest.LogCaptureFixture,
    seed: int,
    damage: Callable[[Path, random.Random], None],
) -> None:
    """A flipped bit, a cut or a lost file is noticed; asking for the damaged step raises."""
    run, chance = start(), random.Random(seed)
    saved(run, 1)
    for step in (2, 3):
        damage(saved(run, step) / "state.pt", chance)
    model = torch.nn.Linear(4, 4)
    assert run.load_checkpoint("latest", model=model).extra == 1
    assert "is loaded instead, that of step 1" in caplog.text
    with pytest.raises(runwire.CheckpointError, match=r"no checkpoint 3 can be loaded"):
        run.load_checkpoint(3, model=model)


def test_checkpoint_of_a_newer_format_is_refused(start: Start, tmp_path: Path) -> None:
    """Loading half of it could make the run continue wrongly, so the sentence says to upgrade."""
    run = start()
    torch.save({"runwire": 2, "model": {}}, tmp_path / "newer.pt")
    folder = saved(run, 1)
    disguise(folder, (tmp_path / "newer.pt").read_bytes())
    with pytest.raises(runwire.CheckpointError, match=r"format 2 .* upgrade runwire"):
        run.load_checkpoint(1, model=torch.nn.Linear(4, 4))
    with pytest.raises(runwire.CheckpointError, match="upgrade runwire"):
        read_checkpoint(folder)


def test_load_raises_when_every_checkpoint_is_damaged(start: Start, seed: int) -> None:
    """Whether to train from scratch then is a person's decision."""
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
def test_damaged_manifest_hides_only_its_own_checkpoint(
    start: Start, root: Path, caplog: pytest.LogCaptureFixture, manifest: bytes
) -> None:
    """The checkpoint is skipped with a warning and the one before is loaded."""
    run = start()
    saved(run, 1)
    folder = saved(run, 2)
    (folder / "manifest.json").write_bytes(manifest)
    assert run.load_checkpoint("latest").step == 1
    assert f"cannot be read and is skipped: {folder}" in caplog.text
    shutil.rmtree(local_parts(root)[0].folder)
    with pytest.raises(runwire.CheckpointError, match="has checkpoints, but none can be read"):
        run.load_checkpoint("latest")


def test_manifest_that_names_a_file_outside_its_folder_is_skipped(
    start: Start, tmp_path: Path
) -> None:
    """Only files below the checkpoint's own folder, or by reference, are ever read."""
    run = start()
    saved(run, 1)
    folder = saved(run, 2)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"state.pt"', '"../../state.pt"'))
    assert run.load_checkpoint("latest").step == 1


def test_decompression_stops_at_the_size_in_the_manifest(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A decompression bomb is refused at the size in the manifest or the room on the disk."""
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
def test_run_ids_never_become_paths_outside_the_root(
    start: Start, root: Path, tmp_path: Path, run_id: str
) -> None:
    """Whatever the run id, its checkpoints stay below the data root."""
    run = start(run_id=run_id)
    folder = saved(run, 5)
    assert folder.is_relative_to(root / "checkpoints")
    assert run.load_checkpoint("latest").step == 5
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize("step", [-1, 1.5, "7", None, 2**63, float("nan")])
def test_save_refuses_values_that_are_no_step(start: Start, step: object) -> None:
    """Negative, fractional, textual and too large steps are refused and save nothing."""
    run = start()
    with pytest.raises((runwire.CheckpointError, ValueError)):
        run.save_checkpoint(step, extra=1)
    assert run.load_checkpoint() is None


def test_checkpoint_folders_are_readable_by_their_owner_only(start: Start) -> None:
    """Neither group nor others have any right on the folders of a checkpoint."""
    folder = saved(start(), 1)
    assert [path.stat().st_mode & 0o077 for path in (folder, folder.parent)] == [0, 0]


def test_folder_copied_from_another_run_is_no_checkpoint(start: Start, root: Path) -> None:
    """A folder that was moved to another run's place does not become its checkpoint."""
    folder = saved(start(run_id="one"), 1)
    other = saved(start(run_id="two"), 0).parent
    folder.rename(other / folder.name)
    parts = local_parts(root, run_id="two")
    assert [part.manifest.run_id for part in parts] == ["two"]
    assert start(run_id="two").load_checkpoint("latest").step == 0
