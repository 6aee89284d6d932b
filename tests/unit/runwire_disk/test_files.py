"""Small files of a node: replaced whole, read or none, locked by one process."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runwire_disk.files import (
    is_locked,
    read_json,
    remove_tree,
    replace_bytes,
    replace_json,
    try_lock,
    write_all,
)


@pytest.mark.parametrize("sync", [True, False])
def test_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    """A full disk in the middle of a replacement costs the new content, never the old one."""
    path = tmp_path / "state.json"
    replace_bytes(path, b"old", sync=sync)

    def full(_self: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            replace_bytes(path, b"new", sync=sync)
    assert path.read_bytes() == b"old"
    replace_bytes(path, b"new", sync=sync)
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_synced_replacement_forces_content_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may not find the new name with content that never reached the device."""
    path = tmp_path / "meta.json"
    order: list[str] = []
    rename, fsync = Path.replace, os.fsync

    def renaming(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    def forcing(fd: int) -> None:
        order.append("folder" if Path(f"/proc/self/fd/{fd}").resolve() == tmp_path else "content")
        fsync(fd)

    monkeypatch.setattr(Path, "replace", renaming)
    monkeypatch.setattr(os, "fsync", forcing)
    replace_bytes(path, b"{}", sync=True)
    assert order == ["content", "rename", "folder"]


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"{", b"\xff\xfe", b"null"])
def test_unreadable_json_reads_as_nothing(tmp_path: Path, content: bytes | None) -> None:
    """Callers start afresh when a state is missing, torn, or no object."""
    path = tmp_path / "state.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) is None
    replace_json(path, {"a": "\u00e4"})
    assert read_json(path) == {"a": "\u00e4"}


def test_short_writes_are_continued_until_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call of the kernel may take any part of the data."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    with (tmp_path / "log").open("wb") as file:
        write_all(file.fileno(), b"0123456789")
    assert (tmp_path / "log").read_bytes() == b"0123456789"


def test_lock_is_seen_until_its_holder_is_killed(tmp_path: Path) -> None:
    """The kernel frees the lock of a process that gets SIGKILL; nothing stale is left."""
    path = tmp_path / "writer.lock"
    assert not is_locked(path)
    code = (
        "import os, sys, time; from runwire_disk.files import try_lock; "
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); print(try_lock(fd), flush=True); "
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"True\n"
        assert is_locked(path)
        with path.open("r+b") as mine:
            assert not try_lock(mine.fileno())
            child.kill()
            child.wait()
            assert not is_locked(path)
            assert try_lock(mine.fileno())
            assert is_locked(path)


def test_probes_of_a_lock_do_not_see_each_other(tmp_path: Path) -> None:
    """Two commands that ask at once whether an agent lives both see that none does."""
    path = tmp_path / "agent.lock"
    with path.open("wb") as probe:
        fcntl.flock(probe, fcntl.LOCK_SH)
        assert not is_locked(path)


def test_file_system_without_locks_counts_as_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody deletes the folder of a writer whose life cannot be seen; taking a lock says why."""

    def none(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    path = tmp_path / "writer.lock"
    path.touch()
    monkeypatch.setattr(fcntl, "flock", none)
    assert is_locked(path)
    with path.open("rb") as file, pytest.raises(OSError, match="no locks"):
        try_lock(file.fileno())


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO])
def test_lock_that_cannot_be_looked_at_counts_as_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Without descriptors a living trainer is not taken for a dead one; a missing file is free."""

    def refused(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    (tmp_path / "lock").touch()
    assert not is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "missing")
    assert not is_locked(tmp_path / "lock" / "below")
    with monkeypatch.context() as patch:
        patch.setattr("os.open", refused)
        assert is_locked(tmp_path / "lock")


def test_tree_is_removed_without_what_its_links_lead_to(tmp_path: Path) -> None:
    """A link in it goes, its target stays; a link in its place is left alone; none is no error."""
    tree, other = tmp_path / "tree", tmp_path / "other"
    for folder in (tree / "deep" / "deeper", other):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"1")
    (tree / "link").symlink_to(other)
    in_its_place = tmp_path / "link"
    in_its_place.symlink_to(other)
    for path in (tree, in_its_place, tmp_path / "none"):
        remove_tree(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "other"]
    assert (other / "file").read_bytes() == b"1"
