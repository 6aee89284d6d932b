"""Capture of one file where the file system refuses clone, link or kernel copy."""

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
def test_capture_copies_through_the_process_when_the_kernel_cannot(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Between some file systems the bytes have to pass through this process."""
    monkeypatch.setattr(os, "copy_file_range", failing(code), raising=False)
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.EOPNOTSUPP))
    file = Capture(folder, unlimited).take(Entry(path="x", source=source), 3)
    assert (file.index, file.size) == (3, len(CONTENT))
    assert content_path(folder, 3).read_bytes() == CONTENT


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_capture_copies_when_a_hard_link_is_refused(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Across file systems, with another owner or too many links the content is copied."""
    monkeypatch.setattr(os, "link", failing(code))
    Capture(folder, unlimited).take(Entry(path="x", source=source, immutable=True), 0)
    assert content_path(folder, 0).read_bytes() == CONTENT
    assert content_path(folder, 0).stat().st_ino != source.stat().st_ino


def test_capture_keeps_the_opened_file_when_its_path_is_replaced(
    folder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opened file is kept, not the one that has its name later."""
    (tmp_path / "other").write_bytes(b"other")
    link = os.link

    def replaced(path: Path, target: Path) -> None:
        (tmp_path / "other").replace(path)
        link(path, target)

    monkeypatch.setattr(os, "link", replaced)
    Capture(folder, unlimited).take(Entry(path="x", source=source, immutable=True), 0)
    assert content_path(folder, 0).read_bytes() == CONTENT


def test_capture_names_the_file_that_cannot_be_read(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read error is an ArtifactError with the path of the source."""
    monkeypatch.setattr(os, "copy_file_range", failing(errno.EIO), raising=False)
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.EOPNOTSUPP))
    with pytest.raises(ArtifactError, match="source' cannot be read"):
        Capture(folder, unlimited).take(Entry(path="x", source=source), 0)


@pytest.mark.parametrize("call", ["link", "copy_file_range"])
def test_capture_raises_when_the_disk_is_full(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """ENOSPC of a link or copy is raised and not answered by another copy."""
    monkeypatch.setattr(os, call, failing(errno.ENOSPC), raising=False)
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.EOPNOTSUPP))
    entry = Entry(path="x", source=source, immutable=call == "link")
    with pytest.raises(OSError, match="No space"):
        Capture(folder, unlimited).take(entry, 0)


def test_capture_asks_for_room_before_it_copies(folder: Path, source: Path) -> None:
    """Copies stop at the room that is left; links need none."""
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
