"""Makes an artifact visible: blobs are there, then the entry of its version, then the manifest.

Invariants: what has no manifest is not visible; the manifest is stored only while all blobs are
there; the same call again, by whomever, leaves the same state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from runwire_store.condemned import PIN_S, Stopwatch, blobs_condemned
from runwire_store.deletion import is_deleted
from runwire_store.layout import blob_key, name_prefix, version_key
from runwire_store.manifest import FileEntry, Manifest, ManifestError, checked_path
from runwire_store.store import NotFound, ObjectStore, StoreAway, StoreError
from runwire_store.versions import (
    Entry,
    Stamped,
    at_once,
    read_entry,
    read_manifest,
    stamped,
)

__all__ = ["EMPTY_SHA256", "PublishError", "RunDeletedError", "check_files", "publish"]

# An empty file needs no blob.
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
# Each round loses to another publication of the same name in the same nanosecond.
ROUNDS: Final = 16


class PublishError(StoreError):
    """Content is missing in the store: bring the blobs of `missing` there and publish again."""

    def __init__(self, message: str, missing: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class RunDeletedError(ManifestError):
    """The run was deleted for good: nothing of it becomes visible any more."""


def publish(store: ObjectStore, manifest: Manifest, *, now_ns: int) -> Manifest:
    """Make an artifact visible and return its manifest with the stamp of its version.

    An artifact that is visible already stays as it is. Raises: PublishError for missing blobs;
    ManifestError for one that cannot be used, RunDeletedError when its run was deleted; StoreAway
    also while a sweep decides about one of the blobs: the same call succeeds later.
    """
    check_files(manifest.files)
    done = read_manifest(store, manifest.key)
    if done is not None:
        return done
    _refuse_deleted(store, manifest)
    for turn in range(ROUNDS):
        published = _tried(store, manifest, now_ns, turn)
        if published is not None:
            return published
    raise StoreAway(f"{manifest.name!r} is published by many at once; the same call succeeds later")


def _tried(store: ObjectStore, manifest: Manifest, now_ns: int, turn: int) -> Manifest | None:
    """Publish it; None when somebody came between, and it has to be tried again."""
    # The entry protects the blobs until the manifest does; then it need not any more.
    entry, unpinned = Entry.of(manifest).to_json(), Entry.of(manifest).unpinned().to_json()
    known = _entries(store, manifest)
    stamp_ns = _own(known, manifest)
    if not stamp_ns and not turn:
        stamp_ns = _shared(store, known, manifest)
    if not stamp_ns:
        newest = max((each.stamp_ns for each in known), default=0)
        stamp_ns = max(now_ns, newest + 1) + _spread(manifest, turn)
    watch = Stopwatch()
    key = _version_key(manifest, stamp_ns)
    store.put(key, entry)  # also when it is there: its time is what a sweep looks at
    if _collides(store, _entries(store, manifest), manifest, stamp_ns):
        store.delete([key])
        return None
    _require_blobs(store, manifest, key)
    if watch.elapsed_s > PIN_S / 2:
        return None  # this process stood still: the entry may have lost its effect
    published = manifest.versioned(stamp_ns)
    store.put(manifest.key, published.to_json())
    _refuse_deleted(store, manifest)
    stats = list(store.list(name_prefix(manifest.project, manifest.name)))
    is_own = any(stat.key == key and stat.size == len(entry) for stat in stats)
    if not is_own or _own(stamped(stats), manifest) != stamp_ns:
        return None
    if unpinned != entry:
        store.put(key, unpinned)
    return published


def _refuse_deleted(store: ObjectStore, manifest: Manifest) -> None:
    """Raises: RunDeletedError; the tombstone came first, the deletion may not have seen all."""
    if is_deleted(store, manifest.project, manifest.run_id):
        store.delete([manifest.key])
        raise RunDeletedError(f"run {manifest.run_id!r} of {manifest.project!r} was deleted")


def check_files(files: tuple[FileEntry, ...]) -> None:
    """Raises: ManifestError for paths or digests that no folder or store could hold."""
    paths = {checked_path(entry.path) for entry in files}
    if len(paths) != len(files):
        raise ManifestError("the artifact has two files of one path; give them different ones")
    for entry in files:
        parents = entry.path.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            if (folder := "/".join(parents[:depth])) in paths:
                raise ManifestError(f"{folder[:200]!r} is a file and a folder at once; rename one")
        try:
            blob_key(entry.sha256)
        except ValueError as error:
            raise ManifestError(f"{entry.path[:200]!r}: {error}") from error
        if entry.size < 0 or (entry.size and entry.sha256 == EMPTY_SHA256):
            raise ManifestError(f"{entry.path[:200]!r}: {entry.size} bytes cannot be its size")


def _entries(store: ObjectStore, manifest: Manifest) -> list[Stamped]:
    return stamped(store.list(name_prefix(manifest.project, manifest.name)))


def _version_key(manifest: Manifest, stamp_ns: int) -> str:
    return version_key(
        manifest.project, manifest.name, stamp_ns=stamp_ns, artifact=manifest.artifact
    )


def _own(known: Iterable[Stamped], manifest: Manifest) -> int:
    return next((each.stamp_ns for each in known if each.artifact == manifest.artifact), 0)


def _shared(store: ObjectStore, known: list[Stamped], manifest: Manifest) -> int:
    """Return the stamp of the newest version when it has the same content, else 0."""
    newest = max((each.stamp_ns for each in known), default=0)
    same = [each for each in known if each.stamp_ns == newest]
    return newest if any(_is_same(store, each, manifest) for each in same) else 0


def _spread(manifest: Manifest, turn: int) -> int:
    """Nanoseconds that differ by artifact, for those who met at one stamp."""
    return turn and int(manifest.artifact, 16) * turn % 1_000_003


def _is_same(store: ObjectStore, other: Stamped, manifest: Manifest) -> bool:
    if manifest.checkpoint is not None:
        return False
    entry = _read(store, other)
    return (
        entry is not None
        and (entry.digest, entry.type) == (manifest.digest, manifest.type)
        and set(manifest.aliases) <= set(entry.aliases)
        and store.stat(entry.manifest) is not None
    )


def _collides(
    store: ObjectStore, known: Iterable[Stamped], manifest: Manifest, stamp_ns: int
) -> bool:
    """Whether other content has the same stamp: one number would mean two things."""
    others = [e for e in known if e.stamp_ns == stamp_ns and e.artifact != manifest.artifact]
    if not others:
        return False
    if manifest.checkpoint is not None:
        return True
    entry = _read(store, others[0])
    return entry is None or (entry.digest, entry.type) != (manifest.digest, manifest.type)


def _read(store: ObjectStore, entry: Stamped) -> Entry | None:
    try:
        return read_entry(store, entry.key)
    except (NotFound, ManifestError):
        return None


def _require_blobs(store: ObjectStore, manifest: Manifest, entry: str) -> None:
    sizes = {e.sha256: e.size for e in manifest.files if not e.uri and e.sha256 != EMPTY_SHA256}
    if condemned := blobs_condemned(store, sizes, entry=entry):
        raise StoreAway(
            f"a sweep is deciding about {len(condemned)} blobs of {manifest.name!r}; "
            "the same call succeeds in some minutes"
        )
    stats = at_once(lambda sha256: store.stat(blob_key(sha256)), sizes)
    missing = [
        sha256
        for (sha256, size), stat in zip(sizes.items(), stats, strict=True)
        if stat is None or stat.size != size
    ]
    if not missing:
        return
    if store.stat(manifest.key) is None:
        store.delete([entry])  # else it would count as a version
    paths = sorted(e.path for e in manifest.files if e.sha256 in missing)
    raise PublishError(
        f"{len(missing)} blobs of {manifest.name!r} are not in {store.uri} with their size, "
        f"first that of {paths[0]!r} ({missing[0]}): store them and publish again",
        missing,
    )
