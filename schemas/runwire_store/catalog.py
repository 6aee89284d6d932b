"""The catalog of a store: artifacts and checkpoints found by name, from the store alone.

An unreadable manifest hides only its own version: a listing leaves it out and reports it in
`damaged`; asking for exactly that version raises the error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Final, TypeVar

from runwire_store.checkpoints import CheckpointView, group_checkpoints
from runwire_store.layout import (
    NAMES,
    artifacts_prefix,
    checkpoints_prefix,
    name_prefix,
    names_prefix,
    run_prefix,
    tombstone_key,
)
from runwire_store.manifest import Manifest, ManifestError, read_manifest
from runwire_store.retention import find_checkpoint
from runwire_store.store import NotFound, ObjectStore, StoreError, map_in_parallel
from runwire_store.versions import VersionKey, list_stamps, parse_version_keys, read_entry

__all__ = ["LATEST", "Catalog", "CatalogError", "CheckpointView", "Listing", "Version"]

LATEST: Final = "latest"
_NUMBER: Final = re.compile(r"v([0-9]{1,9})")
_T = TypeVar("_T")


class CatalogError(StoreError, LookupError):
    """The store has no such artifact or checkpoint; the message lists what it has."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a name; it may have several artifacts with the same content.

    `aliases` are those that point to this version now, "latest" included; of a version resolved by
    number they are all aliases it was logged with.
    """

    manifest: Manifest
    number: int
    aliases: tuple[str, ...]

    @property
    def ref(self) -> str:
        """Reference to it within its project: "name:v3"."""
        return f"{self.manifest.name}:v{self.number}"


class Listing(list[_T]):
    """The readable items of a listing; `damaged` maps each key left out to the reason."""

    def __init__(self, items: Iterable[_T], damaged: Mapping[str, str]) -> None:
        super().__init__(items)
        self.damaged = damaged


class Catalog:
    """Artifacts and checkpoints of a store. Threads: safe. Raises: StoreAway, StoreRefused."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def artifacts(
        self,
        project: str | None,
        *,
        run_id: str | None = None,
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - the word of the whole interface
    ) -> Listing[Version]:
        """Return versions, newest first within each name; without a project those of all projects.

        With `run_id` the versions that this run logged, even if another run had the same content
        first.
        """
        reader = _Reader(self.store)
        listed: list[Version] = []
        for keys in self._keys_by_name(project, run_id, name, reader):
            for version in _versions(keys, run_id, reader):
                manifest = version.manifest
                if run_id in (None, manifest.run_id) and type in (None, manifest.type):
                    listed.append(version)
        return Listing(listed, reader.damaged)

    def resolve(self, ref: str, project: str) -> Version:
        """Return the version that "name", "name:alias", "name:v3" or "project/name:alias" means.

        Raises: CatalogError; ManifestError when the manifest of that version is unreadable.
        """
        for named_project, name, alias in _readings(ref, project):
            keys = parse_version_keys(self.store.list(name_prefix(named_project, name)))
            if keys:
                version = self._select(keys, alias)
                if version is not None:
                    return version
                stamps = list_stamps(keys)
                raise CatalogError(
                    f"{name!r} of project {named_project!r} has no version {alias!r} (any more): "
                    f"it has had v0 to v{len(stamps) - 1}; "
                    "`runwire artifact ls` shows those that exist and their aliases"
                )
        raise CatalogError(
            f"no artifact {ref!r} in project {project!r}: `runwire artifact ls` lists what there is"
        )

    def projects_of(self, name: str) -> list[str]:
        """Return the projects that have an artifact of this name."""
        reader = _Reader(self.store)
        projects = set()
        for keys in self._keys_by_name(None, None, name, reader):
            # One readable manifest names the project; newest first, older ones may be deleted.
            manifests = (reader.of_version(key) for key in reversed(keys))
            projects |= {m.project for m in islice((m for m in manifests if m is not None), 1)}
        return sorted(projects)

    def knows_run(self, project: str, run_id: str) -> bool:
        """Return whether the run keeps anything here, an artifact or a checkpoint.

        False for a deleted run, and for one that logged values alone.
        """
        gone = tombstone_key(project, run_id)
        keys = {stat.key for stat in islice(self.store.list(run_prefix(project, run_id)), 2)}
        return bool(keys - {gone}) and self.store.stat(gone) is None

    def checkpoints(self, project: str, run_id: str) -> Listing[CheckpointView]:
        """Return the checkpoints of a run, oldest first, including those with missing parts."""
        reader = _Reader(self.store)
        manifests = reader.below([checkpoints_prefix(project, run_id)])
        return Listing(group_checkpoints(manifests), reader.damaged)

    def checkpoint(self, project: str, run_id: str, which: str | int) -> CheckpointView:
        """Return the "latest" or "best" complete checkpoint, or the one of a step.

        Raises: CatalogError; ValueError for another word.
        """
        views = self.checkpoints(project, run_id)
        chosen = find_checkpoint(views, which)
        if chosen is not None:
            return chosen
        steps = [str(view.step) for view in views if view.is_complete]
        others = f"it has {len(steps)}, the last at steps {', '.join(steps[-10:])}"
        if not steps:
            others = "it has no complete one yet"
        if which == "best" and steps:
            others += "; none is marked is_best=True, and no metric is named to compare them by"
        raise CatalogError(f"run {run_id!r} of {project!r} has no checkpoint {which!r}: {others}")

    def _keys_by_name(
        self, project: str | None, run_id: str | None, name: str | None, reader: _Reader
    ) -> Iterator[list[VersionKey]]:
        """Yield the version keys of one name after the other."""
        if project is not None and (run_id is not None or name is not None):
            names = {name} if name is not None else _names_of_run(project, run_id or "", reader)
            prefixes = [name_prefix(project, one) for one in sorted(names)]
        else:
            prefixes = [NAMES if project is None else names_prefix(project)]
        wanted = None if name is None else name_prefix("", name).split("/")[2]
        for prefix in prefixes:
            keys = parse_version_keys(self.store.list(prefix))
            for (_, name_key), same in groupby(keys, lambda k: (k.project_key, k.name_key)):
                if wanted in (None, name_key):
                    yield list(same)

    def _select(self, keys: list[VersionKey], alias: str) -> Version | None:
        by_stamp = [[key for key in keys if key.stamp_ns == stamp] for stamp in list_stamps(keys)]
        number = _NUMBER.fullmatch(alias)
        if number is not None:
            return self._select_number(by_stamp, int(number.group(1)))
        taken: set[str] = set()
        is_newest = True
        for at in reversed(range(len(by_stamp))):
            manifests = self._existing(by_stamp[at], only_one=alias == LATEST)
            if not manifests:
                continue
            aliases = {own for m in manifests for own in m.aliases} - taken - {LATEST}
            if is_newest:
                aliases.add(LATEST)
            if alias in aliases:
                oldest = min(manifests, key=lambda m: m.created_at_ns)
                return Version(oldest, at, tuple(sorted(aliases)))
            taken |= aliases
            is_newest = False
        return None

    def _select_number(self, by_stamp: list[list[VersionKey]], at: int) -> Version | None:
        manifests = self._existing(by_stamp[at], only_one=True) if at < len(by_stamp) else []
        if not manifests:
            return None
        aliases = set(manifests[0].aliases) - {LATEST}
        if not any(self._exists(key) for newer in by_stamp[at + 1 :] for key in newer):
            aliases.add(LATEST)
        return Version(manifests[0], at, tuple(sorted(aliases)))

    def _existing(self, same: Iterable[VersionKey], *, only_one: bool) -> list[Manifest]:
        """Return the manifests of one version, or the first that exists."""

        def read(key: VersionKey) -> Manifest | None:
            return _read_version(self.store, key)

        if not only_one:
            return [m for m in map_in_parallel(read, same) if m is not None]
        return list(islice((m for m in map(read, same) if m is not None), 1))

    def _exists(self, key: VersionKey) -> bool:
        try:
            return _read_version(self.store, key) is not None
        except ManifestError:
            return True


class _Reader:
    """Reads the manifests of one listing and collects those that are unreadable."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.damaged: dict[str, str] = {}

    def of_version(self, key: VersionKey) -> Manifest | None:
        """Return the manifest of a version, None if it is unpublished, deleted or unreadable."""
        try:
            return _read_version(self._store, key)
        except ManifestError as error:
            self.damaged[key.key] = str(error)
            return None

    def below(self, prefixes: Iterable[str]) -> list[Manifest]:
        """Return the readable manifests below these prefixes."""
        keys = [stat.key for prefix in prefixes for stat in self._store.list(prefix)]
        return [m for m in map_in_parallel(self._at, keys) if m is not None]

    def _at(self, key: str) -> Manifest | None:
        try:
            return read_manifest(self._store, key)
        except ManifestError as error:
            self.damaged[key] = str(error)
            return None


def _read_version(store: ObjectStore, key: VersionKey) -> Manifest | None:
    """Return the manifest of a version, None when it is not (or no longer) published.

    Raises: ManifestError.
    """
    try:
        manifest = read_manifest(store, read_entry(store, key.key).manifest)
    except NotFound:
        return None
    if manifest is not None and not (
        manifest.artifact == key.artifact
        and key.key.startswith(name_prefix(manifest.project, manifest.name))
    ):
        raise ManifestError(f"{key.key} names {manifest.key}, the manifest of something else")
    return manifest


def _names_of_run(project: str, run_id: str, reader: _Reader) -> set[str]:
    prefixes = [artifacts_prefix(project, run_id), checkpoints_prefix(project, run_id)]
    return {manifest.name for manifest in reader.below(prefixes)}


def _versions(keys: list[VersionKey], run_id: str | None, reader: _Reader) -> list[Version]:
    """Return the existing versions of one name, newest first."""
    stamps = list_stamps(keys)
    manifests = map_in_parallel(reader.of_version, keys)
    versions: list[Version] = []
    taken: set[str] = set()
    pairs = [(k.stamp_ns, m) for k, m in zip(keys, manifests, strict=True) if m is not None]
    for stamp_ns, same in groupby(reversed(pairs), lambda pair: pair[0]):
        oldest_first = sorted((m for _, m in same), key=lambda m: m.created_at_ns)
        own = [m for m in oldest_first if m.run_id == run_id]
        aliases = {alias for m in oldest_first for alias in m.aliases} - taken - {LATEST}
        if not versions:
            aliases.add(LATEST)
        taken |= aliases
        first = (own or oldest_first)[0]
        versions.append(Version(first, stamps.index(stamp_ns), tuple(sorted(aliases))))
    return versions


def _readings(ref: str, project: str) -> Iterator[tuple[str, str, str]]:
    """Yield possible meanings of a reference, likeliest first: names may contain "/" and ":"."""
    name, colon, alias = ref.rpartition(":")
    words = [(name, alias)] if colon and name and alias else []
    for full, label in [*words, (ref, LATEST)]:
        yield project, full, label
        named, slash, rest = full.partition("/")
        if slash and named and rest:
            yield named, rest, label
