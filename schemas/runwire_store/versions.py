"""Versions of a name: small entries whose keys sort by stamp, each naming a manifest.

The number of a version is the rank of its stamp, so entries are kept when a manifest is deleted.
An artifact may have left several entries (two processes published it at once): the first counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeVar

from runwire_store.layout import RUNS
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.store import NotFound, ObjectStore, Stat

__all__ = ["Entry", "Stamped", "at_once", "read_entry", "read_manifest", "stamped", "stamps_of"]

FORMAT: Final = 1
# Enough to hide the latency of a store's answers.
THREADS: Final = 8
T = TypeVar("T")
R = TypeVar("R")
_KEY = re.compile(r"names/([0-9a-f]{32})/([0-9a-f]{32})/([0-9]{20})-([0-9a-f]{32})\.json")


@dataclass(frozen=True, slots=True)
class Stamped:
    """What the key of an entry says."""

    key: str
    project_key: str
    name_key: str
    stamp_ns: int
    artifact: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an entry holds: enough to find the manifest and to share a version.

    `blobs` protects content from a sweep until the manifest is there, see `sweep`.
    """

    manifest: str
    digest: str
    type: str
    aliases: tuple[str, ...]
    blobs: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the entry of an artifact."""
        blobs = {entry.sha256 for entry in manifest.files if not entry.uri}
        return cls(
            manifest=manifest.key,
            digest=manifest.digest,
            type=manifest.type,
            aliases=manifest.aliases,
            blobs=tuple(sorted(blobs)),
        )

    def unpinned(self) -> Self:
        """Return the entry as it stays: the manifest protects the content from now on."""
        return replace(self, blobs=())

    def to_json(self) -> bytes:
        """Return it as it is stored."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"format": FORMAT, **fields}, sort_keys=True).encode()


def stamped(stats: Iterable[Stat]) -> list[Stamped]:
    """Return the first entry of each artifact, ordered by stamp within a name."""
    found = [_KEY.fullmatch(stat.key) for stat in stats]
    seen: set[tuple[str, str, str]] = set()
    entries = []
    for match in found:
        if match is None:
            continue
        project, name, stamp, artifact = match.groups()
        if (project, name, artifact) not in seen:
            seen.add((project, name, artifact))
            entries.append(Stamped(match.string, project, name, int(stamp), artifact))
    return entries


def stamps_of(entries: Iterable[Stamped]) -> list[int]:
    """Return the stamps of one name: the position of a version's stamp is its number."""
    return sorted({entry.stamp_ns for entry in entries})


def read_entry(store: ObjectStore, key: str) -> Entry:
    """Return an entry. Raises: NotFound, ManifestError."""
    data = store.get(key)
    try:
        fields = json.loads(data)
        if fields.pop("format") != FORMAT:
            raise ManifestError(f"{key} was written by a newer runwire; upgrade to read it")
        entry = Entry(
            manifest=fields["manifest"],
            digest=fields["digest"],
            type=fields["type"],
            aliases=tuple(fields["aliases"]),
            blobs=tuple(map(_hex, fields["blobs"])),
        )
        if not entry.manifest.startswith(RUNS):
            raise ManifestError(f"{key} names {entry.manifest[:80]!r}, which is no manifest")
    except ManifestError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ManifestError(f"{key} is no entry of a version: {error!r}") from error
    return entry


def at_once(ask: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return the answers in the order of the items; several are asked for at the same time."""
    asked = list(items)
    if THREADS < 2 or len(asked) < 2:
        return [ask(item) for item in asked]
    with ThreadPoolExecutor(min(THREADS, len(asked))) as threads:
        return list(threads.map(ask, asked))


def _hex(sha256: str) -> str:
    return bytes.fromhex(sha256).hex()


def read_manifest(store: ObjectStore, key: str) -> Manifest | None:
    """Return a manifest, None when there is none.

    Raises: ManifestError also for one that lies where it does not belong.
    """
    try:
        data = store.get(key)
    except NotFound:
        return None
    try:
        manifest = Manifest.from_json(data)
    except ManifestError as error:
        raise ManifestError(f"{key}: {error}") from error
    except (AttributeError, TypeError, RecursionError) as error:
        raise ManifestError(f"{key} is no manifest of an artifact: {error!r}") from error
    if manifest.key != key:
        raise ManifestError(f"{key} holds the manifest of {manifest.key}: it was copied or changed")
    return manifest
