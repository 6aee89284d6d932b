"""Finds artifacts and checkpoints by name, from the store alone.

A manifest that cannot be read hides its own version only: lists leave it out and remember why in
`damaged`; who asked for exactly that one gets the error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Final

from runwire_store.checkpoints import CheckpointView, find, grouped
from runwire_store.layout import (
    NAMES,
    artifacts_prefix,
    checkpoints_prefix,
    name_prefix,
    names_prefix,
)
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.store import NotFound, ObjectStore, StoreError
from runwire_store.versions import (
    Stamped,
    at_once,
    read_entry,
    read_manifest,
    stamped,
    stamps_of,
)

__all__ = ["LATEST", "Catalog", "CatalogError", "CheckpointView", "Version"]

LATEST: Final = "latest"
_NUMBER: Final = re.compile(r"v([0-9]{1,9})")


class CatalogError(StoreError, LookupError):
    """The store has no such artifact or checkpoint; the message says what it has."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a name; of several artifacts with the same content one stands for all.

    `aliases` are those that mean this version now, "latest" among them; of one that was asked for
    by number all that it was given.
    """

    manifest: Manifest
    number: int
    aliases: tuple[str, ...]

    @property
    def ref(self) -> str:
        """How to ask for it within its project: "name:v3"."""
        return f"{self.manifest.name}:v{self.number}"


class Catalog:
    """What a store holds. Threads: safe.

    `damaged` says of each key that a list left out why. Raises: StoreAway, StoreRefused.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.damaged: dict[str, str] = {}

    def artifacts(
        self,
        project: str | None,
        *,
        run_id: str | None = None,
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - the word of the whole interface
    ) -> list[Version]:
        """Return versions, newest first within each name; without a project those of all.

        With `run_id` those that this run logged, also when another one had the same content first.
        """
        found: list[Version] = []
        for entries in self._entries(project, run_id, name):
            for version in self._versions(entries, run_id):
                manifest = version.manifest
                if run_id in (None, manifest.run_id) and type in (None, manifest.type):
                    found.append(version)
        return found

    def resolve(self, ref: str, project: str) -> Version:
        """Return what "name", "name:alias", "name:v3" or "project/name:alias" means now.

        Raises: CatalogError; ManifestError when exactly that manifest cannot be read.
        """
        for named_project, name, alias in _readings(ref, project):
            entries = stamped(self.store.list(name_prefix(named_project, name)))
            if entries:
                found = self._chosen(entries, alias)
                if found is not None:
                    return found
                stamps = stamps_of(entries)
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
        found = set()
        for entries in self._entries(None, None, name):
            # One readable manifest names the project; newest first, older ones may be deleted.
            known = (self._readable(entry) for entry in reversed(entries))
            found |= {m.project for m in islice((m for m in known if m is not None), 1)}
        return sorted(found)

    def checkpoints(self, project: str, run_id: str) -> list[CheckpointView]:
        """Return the checkpoints of a run, oldest first, those with missing parts included."""
        return grouped(self._manifests([checkpoints_prefix(project, run_id)]))

    def checkpoint(self, project: str, run_id: str, which: str | int) -> CheckpointView:
        """Return the "latest" or "best" complete checkpoint, or the one of a step.

        Raises: CatalogError; ValueError for another word.
        """
        known = self.checkpoints(project, run_id)
        found = find(known, which)
        if found is not None:
            return found
        steps = [str(each.step) for each in known if each.is_complete]
        told = f"it has {len(steps)}, the last at steps {', '.join(steps[-10:])}"
        if not steps:
            told = "it has no complete one yet"
        if which == "best" and steps:
            told += "; none is marked is_best=True, and no metric is named to compare them by"
        raise CatalogError(f"run {run_id!r} of {project!r} has no checkpoint {which!r}: {told}")

    def _entries(
        self, project: str | None, run_id: str | None, name: str | None
    ) -> Iterator[list[Stamped]]:
        """Yield the entries of one name after the other."""
        if project is not None and (run_id is not None or name is not None):
            names = {name} if name is not None else self._names_of_run(project, run_id or "")
            prefixes = [name_prefix(project, each) for each in sorted(names)]
        else:
            prefixes = [NAMES if project is None else names_prefix(project)]
        wanted = None if name is None else name_prefix("", name).split("/")[2]
        for prefix in prefixes:
            known = stamped(self.store.list(prefix))
            for (_, name_key), same in groupby(known, lambda e: (e.project_key, e.name_key)):
                if wanted in (None, name_key):
                    yield list(same)

    def _names_of_run(self, project: str, run_id: str) -> set[str]:
        prefixes = [artifacts_prefix(project, run_id), checkpoints_prefix(project, run_id)]
        return {manifest.name for manifest in self._manifests(prefixes)}

    def _versions(self, entries: list[Stamped], run_id: str | None) -> list[Version]:
        """Return the existing versions of one name, newest first."""
        stamps = stamps_of(entries)
        read = at_once(self._readable, entries)
        found: list[Version] = []
        taken: set[str] = set()
        pairs = [(e.stamp_ns, m) for e, m in zip(entries, read, strict=True) if m is not None]
        for stamp_ns, same in groupby(reversed(pairs), lambda pair: pair[0]):
            manifests = sorted((m for _, m in same), key=lambda m: m.created_at_ns)
            own = [m for m in manifests if m.run_id == run_id]
            aliases = {alias for m in manifests for alias in m.aliases} - taken - {LATEST}
            if not found:
                aliases.add(LATEST)
            taken |= aliases
            first = (own or manifests)[0]
            found.append(Version(first, stamps.index(stamp_ns), tuple(sorted(aliases))))
        return found

    def _chosen(self, entries: list[Stamped], alias: str) -> Version | None:
        by_stamp = [
            [entry for entry in entries if entry.stamp_ns == stamp] for stamp in stamps_of(entries)
        ]
        number = _NUMBER.fullmatch(alias)
        if number is not None:
            return self._numbered(by_stamp, int(number.group(1)))
        taken: set[str] = set()
        is_newest = True
        for at in reversed(range(len(by_stamp))):
            read = self._existing(by_stamp[at], only_one=alias == LATEST)
            if not read:
                continue
            aliases = {each for m in read for each in m.aliases} - taken - {LATEST}
            if is_newest:
                aliases.add(LATEST)
            if alias in aliases:
                oldest = min(read, key=lambda m: m.created_at_ns)
                return Version(oldest, at, tuple(sorted(aliases)))
            taken |= aliases
            is_newest = False
        return None

    def _numbered(self, by_stamp: list[list[Stamped]], at: int) -> Version | None:
        found = self._existing(by_stamp[at], only_one=True) if at < len(by_stamp) else []
        if not found:
            return None
        aliases = set(found[0].aliases) - {LATEST}
        if not any(self._exists(entry) for newer in by_stamp[at + 1 :] for entry in newer):
            aliases.add(LATEST)
        return Version(found[0], at, tuple(sorted(aliases)))

    def _existing(self, same: Iterable[Stamped], *, only_one: bool) -> list[Manifest]:
        """Return the manifests of one version, or the first that exists."""
        if not only_one:
            return [m for m in at_once(self._of_entry, same) if m is not None]
        return list(islice((m for m in map(self._of_entry, same) if m is not None), 1))

    def _of_entry(self, entry: Stamped) -> Manifest | None:
        """Return the manifest of a version, None when it is not (or no longer) published."""
        try:
            found = read_manifest(self.store, read_entry(self.store, entry.key).manifest)
        except NotFound:
            return None
        if found is not None and not (
            found.artifact == entry.artifact
            and entry.key.startswith(name_prefix(found.project, found.name))
        ):
            raise ManifestError(f"{entry.key} names {found.key}, the manifest of something else")
        return found

    def _exists(self, entry: Stamped) -> bool:
        try:
            return self._of_entry(entry) is not None
        except ManifestError:
            return True

    def _readable(self, entry: Stamped) -> Manifest | None:
        try:
            return self._of_entry(entry)
        except ManifestError as error:
            self.damaged[entry.key] = str(error)
            return None

    def _manifests(self, prefixes: Iterable[str]) -> list[Manifest]:
        keys = [stat.key for prefix in prefixes for stat in self.store.list(prefix)]
        return [m for m in at_once(self._at, keys) if m is not None]

    def _at(self, key: str) -> Manifest | None:
        try:
            return read_manifest(self.store, key)
        except ManifestError as error:
            self.damaged[key] = str(error)
            return None


def _readings(ref: str, project: str) -> Iterator[tuple[str, str, str]]:
    """Yield what a reference can mean, the likeliest first: names may contain "/" and ":"."""
    name, colon, alias = ref.rpartition(":")
    words = [(name, alias)] if colon and name and alias else []
    for each, label in [*words, (ref, LATEST)]:
        yield project, each, label
        named, slash, rest = each.partition("/")
        if slash and named and rest:
            yield named, rest, label
