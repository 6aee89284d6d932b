"""Versions of a name: small entries whose keys sort by stamp; each names a manifest.

The number of a version is its position when the entries of a name are sorted by stamp, so an entry
is kept when its manifest is deleted. If two processes published an artifact at once it has several
entries: the first counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from runwire_store.layout import RUNS
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.store import ObjectStore, Stat

__all__ = ["VersionEntry", "VersionKey", "list_stamps", "parse_version_keys", "read_entry"]

FORMAT: Final = 1
_KEY = re.compile(r"names/([0-9a-f]{32})/([0-9a-f]{32})/([0-9]{20})-([0-9a-f]{32})\.json")


@dataclass(frozen=True, slots=True)
class VersionKey:
    """The key of an entry, parsed."""

    key: str
    project_key: str
    name_key: str
    stamp_ns: int
    artifact: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEntry:
    """The content of an entry: enough to find the manifest and to share a version.

    `blobs` protects content from a sweep until the manifest is published, see `condemned`.
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
        """Return the final entry: once published, the manifest protects the content."""
        return replace(self, blobs=())

    def to_json(self) -> bytes:
        """Return the stored form."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"format": FORMAT, **fields}, sort_keys=True).encode()


def parse_version_keys(stats: Iterable[Stat]) -> list[VersionKey]:
    """Return the first key of each artifact, ordered by stamp within a name."""
    seen: set[tuple[str, str, str]] = set()
    keys = []
    for match in (_KEY.fullmatch(stat.key) for stat in stats):
        if match is None:
            continue
        project, name, stamp, artifact = match.groups()
        if (project, name, artifact) not in seen:
            seen.add((project, name, artifact))
            keys.append(VersionKey(match.string, project, name, int(stamp), artifact))
    return keys


def list_stamps(keys: Iterable[VersionKey]) -> list[int]:
    """Return the stamps of one name, sorted: a version's number is the position of its stamp."""
    return sorted({key.stamp_ns for key in keys})


def read_entry(store: ObjectStore, key: str) -> VersionEntry:
    """Return an entry. Raises: NotFound, ManifestError."""
    data = store.get(key)
    try:
        fields = json.loads(data)
        if fields.pop("format") != FORMAT:
            raise ManifestError(f"{key} was written by a newer runwire; upgrade to read it")
        entry = VersionEntry(
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


def _hex(sha256: str) -> str:
    return bytes.fromhex(sha256).hex()
