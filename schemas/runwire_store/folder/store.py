"""The object store in a folder: the embedded default, also for shared file systems.

Invariants: a key's file is whole and on disk from the moment it has its name; unfinished files are
in `.tmp/`, which no key can name; files never change after they got their name.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from runwire_store.folder.files import (
    FULL,
    PartFile,
    copy_bytes,
    make_folder,
    read_journal,
    resume_into,
    sync_folder,
    write_journal,
)
from runwire_store.layout import check_key, check_key_prefix
from runwire_store.store import NotFound, Progress, Stat, StoreAway, StoreRefused, check_part_sizes

__all__ = ["FolderStore"]

_TEMPORARY: Final = ".tmp"
# Another file system, no links, too many links, or a foreign file: the content is copied.
_NO_LINK: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
)
# After a power cut a resumed copy trusts only synced bytes; more syncs cost more than they save.
_SYNC_BYTES: Final = 64 * 1024 * 1024
# Another process may remove a new folder that it finds empty: it is made again.
_TRIES: Final = 16
# A person has to act: no retry makes these go away.
_REFUSED: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
)


class FolderStore:
    """Objects as files below `root`, readable only by their owner; the root is made when needed.

    Threads: safe, also between processes and over a network file system that renames atomically.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def uri(self) -> str:
        """Return "file:///folder"."""
        return self.root.as_uri()

    def check(self) -> None:
        """Prove that the folder can be read; one that does not exist yet is an empty store."""
        with (
            translating_errors(self.root, "read"),
            suppress(FileNotFoundError),
            os.scandir(self.root) as entries,
        ):
            next(entries, None)

    def put(self, key: str, data: bytes) -> None:
        """Store a small object; one of the same key is replaced."""
        with translating_errors(self.root, "write", key), self._new_file() as (temporary, file):
            file.write(data)
            os.fsync(file.fd)
            self._name(temporary, key)

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        journal: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Store a file: linked if the file system can, else copied.

        Raises: OSError when `path` itself cannot be read.
        """
        check_key(key)
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with translating_errors(self.root, "write", key):
                size = os.fstat(source).st_size
                if self._link(key, source, path):
                    if progress is not None:
                        progress(size)
                else:
                    self._copy(key, source, journal, progress)
        finally:
            os.close(source)

    def get(self, key: str) -> bytes:
        """Return a small object. Raises: NotFound."""
        with translating_errors(self.root, "read", key):
            return self._path(key).read_bytes()

    def get_file(self, key: str, path: Path, *, progress: Progress | None = None) -> None:
        """Copy an object to `path`; never a link, because the reader may change the file.

        Raises: NotFound; OSError when `path` cannot be written.
        """
        with translating_errors(self.root, "read", key):
            source = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(source).st_size
            with resume_into(path, size, progress=progress) as part:
                os.lseek(source, part.start, os.SEEK_SET)
                copy_bytes(source, part, size - part.start)
        finally:
            os.close(source)

    def stat(self, key: str) -> Stat | None:
        """Return size and time of an object, None when there is none."""
        try:
            with translating_errors(self.root, "read", key):
                return _stat(key, self._path(key).stat())
        except NotFound:
            return None

    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield all objects whose key starts with `prefix`, ordered by key."""
        start = check_key_prefix(prefix).rpartition("/")[0]
        yield from self._walk(self.root / start, f"{start}/" if start else "", prefix)

    def compose(self, key: str, parts: Sequence[str]) -> None:
        """Join objects in the order given. Raises: NotFound for a missing part."""
        check_key(key)
        sizes = []
        for part in parts:
            found = self.stat(part)
            if found is None:
                raise NotFound(f"there is no {part} in {self.uri}")
            sizes.append(found.size)
        check_part_sizes(sizes)
        with translating_errors(self.root, "write", key), self._new_file() as (temporary, file):
            for part, size in zip(parts, sizes, strict=True):
                with translating_errors(self.root, "read", part):
                    source = os.open(self._path(part), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    copy_bytes(source, file, size)
                finally:
                    os.close(source)
            os.fsync(file.fd)
            self._name(temporary, key)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and folders that get empty; missing objects are no error."""
        for key in keys:
            path = self._path(key)
            with translating_errors(self.root, "delete", key):
                path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root:
                    break
                try:
                    folder.rmdir()
                except OSError:  # not empty, or gone
                    break

    def keeps_versions(self) -> bool:
        """Return False: a deleted file is gone."""
        return False

    def expire_uploads(self, older_than_s: float) -> int:
        """Delete unfinished copies that were not written to for longer; return how many."""
        before_ns = time.time_ns() - int(older_than_s * 1e9)
        expired = 0
        with translating_errors(self.root, "delete"), suppress(FileNotFoundError):
            for entry in os.scandir(self.root / _TEMPORARY):
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_ctime_ns < before_ns:
                        Path(entry.path).unlink()
                        expired += 1
        return expired

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _link(self, key: str, source: int, path: Path) -> bool:
        temporary = self._temporary()
        try:
            os.link(path.resolve(), temporary)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        try:
            linked = temporary.stat(follow_symlinks=False)
            if not os.path.samestat(linked, os.fstat(source)):
                return False  # a rename came between the two
            os.fsync(source)
            self._name(temporary, key)
        finally:
            # A rename between two names of one file leaves both.
            temporary.unlink(missing_ok=True)
        return True

    def _copy(self, key: str, source: int, journal: Path | None, progress: Progress | None) -> None:
        size = os.fstat(source).st_size
        facts = read_journal(journal)
        if facts.get("key") != key or facts.get("size") != size or "temporary" not in facts:
            facts = {"key": key, "size": size, "temporary": uuid.uuid4().hex, "synced": 0}
            if journal is not None:  # before the file, so that a kill leaves no unknown file
                write_journal(journal, facts)
        temporary = self._temporary(facts["temporary"])
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(temporary, flags, 0o600)
        is_kept = journal is not None
        try:
            done = min(facts["synced"], os.fstat(fd).st_size)
            os.ftruncate(fd, done)
            os.lseek(fd, done, os.SEEK_SET)
            os.lseek(source, done, os.SEEK_SET)
            file = PartFile(fd, done, progress)
            file.moved(done)
            while done < size:
                step = min(_SYNC_BYTES, size - done)
                copy_bytes(source, file, step)
                done += step
                os.fsync(fd)
                if journal is not None:
                    write_journal(journal, facts | {"synced": done})
            self._name(temporary, key)
            is_kept = False
        except OSError as error:
            is_kept = is_kept and error.errno not in FULL  # it cannot be finished and takes room
            raise
        finally:
            os.close(fd)
            if not is_kept:
                temporary.unlink(missing_ok=True)
                if journal is not None:
                    journal.unlink(missing_ok=True)

    @contextmanager
    def _new_file(self) -> Iterator[tuple[Path, PartFile]]:
        temporary = self._temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            yield temporary, PartFile(fd, 0, None)
        finally:
            os.close(fd)
            temporary.unlink(missing_ok=True)

    def _temporary(self, name: str = "") -> Path:
        folder = self.root / _TEMPORARY
        make_folder(folder)
        return folder / (name or uuid.uuid4().hex)

    def _name(self, temporary: Path, key: str) -> None:
        path = self._path(key)
        for left in reversed(range(_TRIES)):
            try:
                make_folder(path.parent)
                temporary.replace(path)
                break
            except FileNotFoundError:
                if not left:
                    raise
        with suppress(FileNotFoundError):  # deleted again already
            sync_folder(path.parent)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _walk(self, folder: Path, above: str, prefix: str) -> Iterator[Stat]:
        with translating_errors(self.root, "read"):
            try:
                with os.scandir(folder) as found:
                    entries = [(e.name, e.is_dir(follow_symlinks=False), e) for e in found]
            except FileNotFoundError:
                return
        # With its slash a folder sorts among the files like its keys.
        for name, is_folder, entry in sorted(entries, key=lambda e: e[0] + "/" * e[1]):
            key = above + name
            if name.startswith("."):
                continue
            if is_folder:
                below = key + "/"
                if below.startswith(prefix) or prefix.startswith(below):
                    yield from self._walk(folder / name, below, prefix)
            elif key.startswith(prefix) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    yield _stat(key, entry.stat())


def _stat(key: str, found: os.stat_result) -> Stat:
    # The inode's time, not the content's: a linked file may be old, but it is new in the store.
    return Stat(key, found.st_size, found.st_ctime_ns)


@contextmanager
def translating_errors(root: Path, verb: str, key: str = "") -> Iterator[None]:
    """Turn OSErrors of the store's files into errors of a store with a sentence.

    Raises: NotFound, StoreRefused, StoreAway.
    """
    what = f"{key} in {root}" if key else str(root)
    try:
        yield
    except FileNotFoundError as error:
        if not key:
            raise
        if verb == "read":
            raise NotFound(f"there is no {what}") from error
        raise StoreAway(f"cannot {verb} {what}: {error.strerror}") from error
    except OSError as error:
        if error.errno in FULL:
            raise StoreRefused(
                f"no room for {what}: {error.strerror}. Free some, or set RUNWIRE_DIR to a "
                "larger disk; what was stored before is untouched"
            ) from error
        if error.errno in _REFUSED:
            raise StoreRefused(
                f"cannot {verb} {what}: {error.strerror}. Give this user access to it, or "
                "set RUNWIRE_DIR to a folder of its own"
            ) from error
        raise StoreAway(f"cannot {verb} {what}: {error.strerror}; runwire tries again") from error
