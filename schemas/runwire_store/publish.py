"""Publication of an artifact: its blobs are stored, then the version's entry, then the manifest.

Invariants: an artifact without a manifest is not visible; a manifest is stored only while all its
blobs exist; repeating the call, in any process, leaves the same state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from runwire_store.condemned import PIN_S, Stopwatch, blobs_condemned
from runwire_store.layout import blob_key, name_prefix, tombstone_key, version_key
from runwire_store.manifest import (
    EMPTY_SHA256,
    Manifest,
    ManifestError,
    check_files,
    read_manifest,
)
from runwire_store.store import NotFound, ObjectStore, StoreAway, StoreError, map_in_parallel
from runwire_store.versions import VersionEntry, VersionKey, parse_version_keys, read_entry

__all__ = ["PublishError", "RunDeletedError", "publish"]

# A round is lost when another process publishes the same name in the same nanosecond.
ROUNDS: Final = 16


class PublishError(StoreError):
    """Content is missing in the store: store the blobs of `missing` and publish again."""

    def __init__(self, message: str, missing: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class RunDeletedError(ManifestError):
    """The run was deleted for good: nothing of it can be published any more."""


def publish(store: ObjectStore, manifest: Manifest, *, now_ns: int) -> Manifest:
    """Make an artifact visible and return its manifest with the stamp of its version.

    An artifact that is already visible is not changed. Raises: PublishError for missing blobs;
    ManifestError for an invalid manifest; RunDeletedError when its run was deleted; StoreAway,
    also while a sweep decides about one of the blobs: the same call succeeds later.
    """
    check_files(manifest.files)
    done = read_manifest(store, manifest.key)
    if done is not None:
        return done
    _refuse_deleted(store, manifest)
    for turn in range(ROUNDS):
        published = _try_publish(store, manifest, now_ns, turn)
        if published is not None:
            return published
    raise StoreAway(
        f"{manifest.name!r} is being published by many processes; the same call succeeds later"
    )


def _try_publish(store: ObjectStore, manifest: Manifest, now_ns: int, turn: int) -> Manifest | None:
    """Publish it; None when another process interfered and it has to be tried again."""
    # The entry protects the blobs until the manifest is stored.
    entry, unpinned = (
        VersionEntry.of(manifest).to_json(),
        VersionEntry.of(manifest).unpinned().to_json(),
    )
    known = _list_keys(store, manifest)
    stamp_ns = _own_stamp(known, manifest)
    if not stamp_ns and not turn:
        stamp_ns = _shared_stamp(store, known, manifest)
    if not stamp_ns:
        newest = max((each.stamp_ns for each in known), default=0)
        stamp_ns = max(now_ns, newest + 1) + _spread(manifest, turn)
    watch = Stopwatch()
    key = _version_key(manifest, stamp_ns)
    store.put(key, entry)  # even if it exists: a sweep looks at its time
    if _collides(store, _list_keys(store, manifest), manifest, stamp_ns):
        store.delete([key])
        return None
    _require_blobs(store, manifest, key)
    if watch.elapsed_s > PIN_S / 2:
        return None  # this process was suspended: the entry may no longer protect the blobs
    published = manifest.versioned(stamp_ns)
    store.put(manifest.key, published.to_json())
    _refuse_deleted(store, manifest)
    stats = list(store.list(name_prefix(manifest.project, manifest.name)))
    is_own = any(stat.key == key and stat.size == len(entry) for stat in stats)
    if not is_own or _own_stamp(parse_version_keys(stats), manifest) != stamp_ns:
        return None
    if unpinned != entry:
        store.put(key, unpinned)
    return published


def _refuse_deleted(store: ObjectStore, manifest: Manifest) -> None:
    """Raises: RunDeletedError. The deletion may have missed this manifest, not the tombstone."""
    if store.stat(tombstone_key(manifest.project, manifest.run_id)) is not None:
        store.delete([manifest.key])
        raise RunDeletedError(f"run {manifest.run_id!r} of {manifest.project!r} was deleted")


def _list_keys(store: ObjectStore, manifest: Manifest) -> list[VersionKey]:
    return parse_version_keys(store.list(name_prefix(manifest.project, manifest.name)))


def _version_key(manifest: Manifest, stamp_ns: int) -> str:
    return version_key(
        manifest.project, manifest.name, stamp_ns=stamp_ns, artifact=manifest.artifact
    )


def _own_stamp(known: Iterable[VersionKey], manifest: Manifest) -> int:
    return next((each.stamp_ns for each in known if each.artifact == manifest.artifact), 0)


def _shared_stamp(store: ObjectStore, known: list[VersionKey], manifest: Manifest) -> int:
    """Return the stamp of the newest version when it has the same content, else 0."""
    newest = max((each.stamp_ns for each in known), default=0)
    same = [each for each in known if each.stamp_ns == newest]
    return newest if any(_is_same(store, each, manifest) for each in same) else 0


def _spread(manifest: Manifest, turn: int) -> int:
    """Return nanoseconds that differ by artifact: publications met at one stamp."""
    return turn and int(manifest.artifact, 16) * turn % 1_000_003


def _is_same(store: ObjectStore, other: VersionKey, manifest: Manifest) -> bool:
    if manifest.checkpoint is not None:
        return False
    entry = _read_or_none(store, other)
    return (
        entry is not None
        and (entry.digest, entry.type) == (manifest.digest, manifest.type)
        and set(manifest.aliases) <= set(entry.aliases)
        and store.stat(entry.manifest) is not None
    )


def _collides(
    store: ObjectStore, known: Iterable[VersionKey], manifest: Manifest, stamp_ns: int
) -> bool:
    """Whether other content has the same stamp: one number would mean two contents."""
    others = [e for e in known if e.stamp_ns == stamp_ns and e.artifact != manifest.artifact]
    if not others:
        return False
    if manifest.checkpoint is not None:
        return True
    entry = _read_or_none(store, others[0])
    return entry is None or (entry.digest, entry.type) != (manifest.digest, manifest.type)


def _read_or_none(store: ObjectStore, entry: VersionKey) -> VersionEntry | None:
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
    stats = map_in_parallel(lambda sha256: store.stat(blob_key(sha256)), sizes)
    missing = [
        sha256
        for (sha256, size), stat in zip(sizes.items(), stats, strict=True)
        if stat is None or stat.size != size
    ]
    if not missing:
        return
    if store.stat(manifest.key) is None:
        store.delete([entry])  # otherwise it would count as a version
    paths = sorted(e.path for e in manifest.files if e.sha256 in missing)
    raise PublishError(
        f"{len(missing)} blobs of {manifest.name!r} are not in {store.uri} with their size, "
        f"first that of {paths[0]!r} ({missing[0]}): store them and publish again",
        missing,
    )
