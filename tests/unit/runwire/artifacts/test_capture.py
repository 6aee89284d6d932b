"""How one file is captured where the file system cannot do what is best."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runwire import ArtifactError
from runwire.outbox.arguments import Entry
from runwire.outbox.capture import Capture
from runwire_disk.outbox.request import CONTENT_DIR, content_path

CONTENT = os.urandom(3 * 1024 * 1024 + 7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "artifact" / CONTENT_DIR).mkdir(parents=True)
    return tmp_path / "artifact"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(CONTENT)
    return tmp_path / "source"


def failing(code: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


def unlimited() -> int:
    return 2**40


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_kernels_that_do_not_copy(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Between some file systems the bytes have to go through this process."""
    monkeypatch.setattr(os, "copy_file_range", failing(code), raising=False)
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.EOPNOTSUPP))
    file = Capture(folder, unlimited).take(Entry(path="x", source=source), 3)
    assert (file.index, file.size) == (3, len(CONTENT))
    assert content_path(folder, 3).read_bytes() == CONTENT


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_files_that_cannot_be_linked(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Another file system, another owner, too many names: then it is a copy, and as safe."""
    monkeypatch.setattr(os, "link", failing(code))
    Capture(folder, unlimited).take(Entry(path="x", source=source, immutable=True), 0)
    assert content_path(folder, 0).read_bytes() == CONTENT
    assert content_path(folder, 0).stat().st_ino != source.stat().st_ino


def test_a_file_replaced_before_it_is_linked(
    folder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened is what is kept, not what has the name by then."""
    (tmp_path / "other").write_bytes(b"other")
    link = os.link

    def replaced(path: Path, target: Path) -> None:
        (tmp_path / "other").replace(path)
        link(path, target)

    monkeypatch.setattr(os, "link", replaced)
    Capture(folder, unlimited).take(Entry(path="x", source=source, immutable=True), 0)
    assert content_path(folder, 0).read_bytes() == CONTENT


def test_a_disk_that_fails_while_reading(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the file that cannot be read."""
    monkeypatch.setattr(os, "copy_file_range", failing(errno.EIO), raising=False)
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.EOPNOTSUPP))
    with pytest.raises(ArtifactError, match="source' cannot be read"):
        Capture(folder, unlimited).take(Entry(path="x", source=source), 0)


@pytest.mark.parametrize("call", ["link", "copy_file_range"])
def test_a_full_disk_is_no_reason_to_copy(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(os, call, failing(errno.ENOSPC), raising=False)
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.EOPNOTSUPP))
    entry = Entry(path="x", source=source, immutable=call == "link")
    with pytest.raises(OSError, match="No space"):
        Capture(folder, unlimited).take(entry, 0)


def test_room_is_asked_for_before_it_is_taken(folder: Path, source: Path) -> None:
    """Copies stop where others need the disk; links take nothing."""
    asked = []

    def room() -> int:
        asked.append(1)
        return len(CONTENT) + 10

    capture = Capture(folder, room)
    capture.take(Entry(path="a", source=source, immutable=True), 0)
    assert asked == []
    capture.take(Entry(path="b", source=b"x" * len(CONTENT)), 1)
    capture.take(Entry(path="c", source=b"x" * 10), 2)
    assert asked == [1]
    with pytest.raises(OSError, match="do not fit"):
        capture.take(Entry(path="d", source=b"x" * (len(CONTENT) + 11)), 3)
