"""Compressed state files: exact round trip, and a bound for bombs and damage."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

import runwire
from runwire.checkpoints.state_file import compress_file, decompressed

MIB = 1024**2


def packed(folder: Path, content: bytes) -> Path:
    (folder / "raw").write_bytes(content)
    compress_file(folder / "raw", folder / "raw.zst")
    return folder / "raw.zst"


def unpacked(path: Path, size: int) -> bytes:
    with decompressed(path, size) as file:
        return file.read()


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 1])
def test_compressed_file_decompresses_to_the_same_bytes(
    tmp_path: Path, seed: int, size: int
) -> None:
    """Empty, tiny and large files are restored exactly, with and without the known size."""
    content = random.Random(seed).randbytes(size // 2) + bytes(size - size // 2)
    path = packed(tmp_path, content)
    for known in (size, -1):
        assert unpacked(path, known) == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "raw.zst"]


def test_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    """A file that declares little and holds a quarter of a gibibyte is refused early."""
    path = packed(tmp_path, bytes(256 * MIB))
    assert path.stat().st_size < MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_oublock
    with pytest.raises(runwire.CheckpointError, match="more than the 1000000 bytes"):
        unpacked(path, 1_000_000)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_oublock - before) * 512 < 16 * MIB


@pytest.mark.parametrize("size", [-1, 1 << 60])
def test_content_larger_than_the_disk_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The error names both folders and the room in them."""
    path = packed(tmp_path, bytes(64 * MIB))
    disk = SimpleNamespace(f_bavail=300, f_frsize=MIB)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    with pytest.raises(
        runwire.CheckpointError, match=r"there is room for 44 MiB in .* and 44 MiB in"
    ):
        unpacked(path, size)


def test_content_shorter_than_saved_is_refused(tmp_path: Path) -> None:
    """Fewer bytes than the manifest says is damage."""
    with pytest.raises(runwire.CheckpointError, match="decompresses to 3 bytes, 4 were saved"):
        unpacked(packed(tmp_path, b"abc"), 4)


def test_damaged_or_cut_file_is_refused(tmp_path: Path, seed: int) -> None:
    """A flipped bit or a cut at any place is refused."""
    chance, size = random.Random(seed), 3 * MIB
    content = chance.randbytes(size)
    path = packed(tmp_path, content)
    whole = path.read_bytes()
    for _ in range(20):
        at = chance.randrange(len(whole))
        path.write_bytes(
            whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
        )
        with pytest.raises(runwire.CheckpointError):
            unpacked(path, size)
        path.write_bytes(whole)
        os.truncate(path, at)
        with pytest.raises(runwire.CheckpointError, match=r"cut short|not an intact"):
            unpacked(path, size)


def test_missing_zstd_names_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a zstd module the error says how to get one."""
    monkeypatch.setitem(__import__("sys").modules, "backports.zstd", None)
    monkeypatch.setitem(__import__("sys").modules, "compression.zstd", None)
    with pytest.raises(runwire.CheckpointError, match=r"pip install 'runwire\[zstd\]'"):
        packed(tmp_path, b"x")
