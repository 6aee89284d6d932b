"""The folder store with a full disk, missing rights, and killed processes."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_store.folder.store import FolderStore
from runwire_store.open import open_store
from runwire_store.store import StoreAway, StoreRefused
from support.small_disk import small_disk

MIB = 1024 * 1024
PATIENCE_S = 60.0
COPY = """
import sys
from pathlib import Path
from runwire_store.folder.store import FolderStore
FolderStore(Path(sys.argv[1])).put_file("blobs/aa/x", Path(sys.argv[2]), journal=Path(sys.argv[3]))
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "8m") as folder:
        yield folder


def files(root: Path) -> list[str]:
    """Everything below the root, temporary files too."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_full_disk_refuses_every_write_and_leaves_no_half_file(disk: Path, tmp_path: Path) -> None:
    """Each way of writing raises StoreRefused; objects that were there stay."""
    store, journal = FolderStore(disk / "objects"), tmp_path / "journal"
    kept, large = os.urandom(3 * MIB), tmp_path / "large"
    large.write_bytes(bytes(6 * MIB))
    store.put("blobs/aa/kept", kept)
    store.put("staging/part", os.urandom(3 * MIB))
    for call in (
        lambda: store.put("blobs/aa/x", bytes(6 * MIB)),
        lambda: store.put_file("blobs/aa/x", large),
        lambda: store.put_file("blobs/aa/x", large, journal=journal),
        lambda: store.compose("blobs/aa/x", ["staging/part"]),
    ):
        with pytest.raises(StoreRefused, match=r"no room for blobs/aa/x .*RUNWIRE_DIR"):
            call()
    assert files(store.root) == ["blobs/aa/kept", "staging/part"]
    assert not journal.exists()
    assert store.get("blobs/aa/kept") == kept
    store.delete(["staging/part", "blobs/aa/kept"])
    store.put_file("blobs/aa/x", large, journal=journal)
    assert [s.size for s in store.list("")] == [6 * MIB]


def test_file_size_limit_of_a_process_counts_as_full_disk(tmp_path: Path) -> None:
    """RLIMIT_FSIZE raises StoreRefused like a full disk and leaves no file."""
    store = FolderStore(tmp_path / "objects")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(StoreRefused, match="no room"):
            store.put("blobs/aa/x", bytes(2 * MIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(store.root) == []


def test_download_onto_a_full_disk_raises_the_os_error(disk: Path, tmp_path: Path) -> None:
    """That is no fault of the store: the file's own error, and the part file stays for the next
    try."""
    store = FolderStore(tmp_path / "objects")
    store.put("blobs/aa/x", bytes(9 * MIB))
    with pytest.raises(OSError, match="No space left"):
        store.get_file("blobs/aa/x", disk / "back")
    assert not (disk / "back").exists()


def test_put_file_links_on_the_same_file_system(tmp_path: Path) -> None:
    """There is no second copy on the same file system; through a symlink the target is linked."""
    source, link = tmp_path / "source", tmp_path / "link"
    source.write_bytes(b"content")
    link.symlink_to(source)
    store = FolderStore(tmp_path / "objects")
    for key, path in (("blobs/aa/x", source), ("blobs/aa/y", link)):
        store.put_file(key, path)
        assert (store.root / key).samefile(source)
    store.put("blobs/aa/x", b"other")
    assert source.read_bytes() == store.get("blobs/aa/y") == b"content"


def test_put_file_copies_to_another_file_system(disk: Path, tmp_path: Path) -> None:
    """The object outlives its source when the store is on another file system."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * MIB))
    store = FolderStore(disk / "objects")
    store.put_file("blobs/aa/x", source)
    source.unlink()
    assert [s.size for s in store.list("")] == [2 * MIB]


def test_killed_copy_stays_invisible_and_resumes(tmp_path: Path, seed: int) -> None:
    """Killed at any moment: never visible in part, no file is left over, the content is right."""
    with small_disk(tmp_path / "disk", "700m") as disk:
        source, journal = tmp_path / "source", tmp_path / "journal"
        data = random.Random(seed).randbytes(MIB) * 300
        source.write_bytes(data)
        store, chosen = FolderStore(disk / "objects"), random.Random(seed)
        command = [sys.executable, "-c", COPY, str(store.root), str(source), str(journal)]
        for _ in range(4):
            child = subprocess.Popen(command)
            wanted, until = chosen.randrange(300) * MIB, time.monotonic() + PATIENCE_S
            while child.poll() is None and copied(store.root) < wanted:
                assert time.monotonic() < until
            child.kill()
            assert child.wait() in {0, -signal.SIGKILL}
            assert [s.size for s in store.list("")] in ([], [len(data)])
        store.put_file("blobs/aa/x", source, journal=journal)
        assert store.get("blobs/aa/x") == data
        store.expire_uploads(-5.0)  # of a copy that was killed before its note
        assert files(store.root) == ["blobs/aa/x"]


def copied(root: Path) -> int:
    try:
        return max((p.stat().st_size for p in (root / ".tmp").iterdir()), default=0)
    except FileNotFoundError:
        return 0


def test_expire_uploads_deletes_abandoned_copies_by_age(tmp_path: Path) -> None:
    """A half copy stays while it is young and is deleted once it is old; objects stay."""
    store = FolderStore(tmp_path / "objects")
    store.put("a", b"")
    (store.root / ".tmp" / "left").write_bytes(b"half")
    assert store.expire_uploads(3600.0) == 0
    assert store.expire_uploads(-5.0) == 1
    assert files(store.root) == ["a"]


def test_store_refuses_a_root_that_is_no_folder(tmp_path: Path) -> None:
    """Every operation names RUNWIRE_DIR when a file is in the way."""
    (tmp_path / "objects").write_text("in the way")
    store = open_store(None, tmp_path)
    for call in (store.check, lambda: store.put("a", b""), lambda: list(store.list(""))):
        with pytest.raises(StoreRefused, match="set RUNWIRE_DIR to a folder of its own"):
            call()


def test_store_refuses_a_root_without_permission(tmp_path: Path) -> None:
    """An unreadable root is refused with the operating system's reason."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    store = FolderStore(tmp_path / "objects")
    store.put("a", b"")
    store.root.chmod(0)
    try:
        with pytest.raises(StoreRefused, match="Permission denied"):
            store.check()
    finally:
        store.root.chmod(0o700)


def test_unused_store_is_empty_and_stays_unmade_by_reads(tmp_path: Path) -> None:
    """Reading a store that was never written finds nothing and makes no folder."""
    store = open_store(None, tmp_path)
    store.check()
    assert list(store.list("")) == []
    assert store.expire_uploads(0.0) == 0
    assert store.uri == f"file://{tmp_path}/objects"
    assert not (tmp_path / "objects").exists()


def test_folders_and_objects_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    """Neither group nor others have any right on folders and objects."""
    store = FolderStore(tmp_path / "objects")
    store.put("blobs/aa/x", b"")
    for path in (store.root, store.root / "blobs", store.root / "blobs" / "aa"):
        assert path.stat().st_mode & 0o077 == 0
    assert (store.root / "blobs" / "aa" / "x").stat().st_mode & 0o077 == 0


def test_list_skips_hidden_files_and_symlinks(tmp_path: Path) -> None:
    """Hidden files and symlinks in the folder are no objects."""
    store = FolderStore(tmp_path / "objects")
    store.put("blobs/aa/x", b"")
    (store.root / "blobs" / ".DS_Store").write_bytes(b"")
    (store.root / "blobs" / "link").symlink_to("/etc/passwd")
    (store.root / "blobs" / "folder").symlink_to("/etc")
    assert [s.key for s in store.list("")] == ["blobs/aa/x"]


def test_concurrent_puts_and_deletes_in_one_folder_never_fail(tmp_path: Path) -> None:
    """A delete prunes the folder that a concurrent put needs; neither fails."""
    import threading

    store, failures = FolderStore(tmp_path / "objects"), list[BaseException]()

    def work(name: str) -> None:
        try:
            for _ in range(300):
                store.put(f"staging/a/{name}", b"data")
                store.delete([f"staging/a/{name}"])
        except (StoreAway, StoreRefused, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert files(store.root) == []
