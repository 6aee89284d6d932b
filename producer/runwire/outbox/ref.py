"""References to artifacts: returned when one is logged or used, to wait for and download it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runwire.conversion import TIMEOUT
from runwire.errors import ArtifactError, RunwireError
from runwire.guard import needed_call
from runwire.settings import Settings
from runwire_disk.outbox.request import outbox_dir
from runwire_disk.outbox.route import KAFKA, REFERENCE, REFUSED, UNSEEN, choose_route

if TYPE_CHECKING:
    from runwire_store.manifest import Manifest
    from runwire_store.store import ObjectStore

__all__ = ["ArtifactRef", "refused", "resolve_artifact", "unseen"]

# First and longest pause between two looks of `wait`: uploads take milliseconds to hours.
_LOOK_INTERVAL_S: Final = (0.02, 1.0)
DOWNLOADS: Final = "artifacts"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """One artifact. `route` is "direct", "kafka", "reference", or why it is not uploaded.

    `key` is the key of its manifest in the store. Units: `size` is the bytes of all files.
    """

    id: str
    name: str
    type: str
    route: str
    size: int
    key: str = ""
    project: str = ""
    settings: Settings = field(default_factory=Settings, repr=False)

    @needed_call(error=ArtifactError, timeout=TIMEOUT)
    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the store has it, or the brokers where this process has no access to a store.

        False after `timeout` seconds, when it is not uploaded at all, when its upload failed for
        good (`runwire status` says why), or when it was deleted meanwhile. Failures behind the
        brokers appear only in `v_artifacts`: give a timeout. Blocks: `timeout`.
        Raises: ArtifactError for a timeout that is no number of seconds.
        """
        if self.route in (REFUSED, UNSEEN):
            return False
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, longest = _LOOK_INTERVAL_S
        while (is_there := self._is_there()) is None:
            left = longest if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, longest)
        return is_there

    @property
    def version(self) -> int | None:
        """Number of this version of the name; None before it is complete.

        Raises: ArtifactError without access to the store. Blocks: for the store's answer.
        """
        from runwire_store.catalog import Catalog

        with opened_store(self.settings) as store:
            own = _manifest(store, self)
            if own is None:
                return None
            versions = Catalog(store).artifacts(self.project, name=self.name)
            numbers = {one.manifest.version_at_ns: one.number for one in versions}
            return numbers.get(own.version_at_ns)

    def download(self, dir: str | Path | None = None) -> Path:  # noqa: A002 - as in `init`
        """Download all files, verified, to `dir` or a folder of the data root; return the folder.

        Raises: ArtifactError. Blocks: during the download.
        """
        return self._fetch(dir)[0]

    def path(self, name: str | None = None, *, dir: str | Path | None = None) -> Path:  # noqa: A002
        """Download, and return one file: the only one, or the one of this name.

        Raises: ArtifactError. Blocks: during the download.
        """
        folder, manifest = self._fetch(dir)
        names = [entry.path for entry in manifest.files]
        if name is None and len(names) == 1:
            return folder / names[0]
        if name not in names:
            shown = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
            raise ArtifactError(f"{self.name!r} has no file {name!r}: it has {shown}")
        return folder / name

    def _fetch(self, dir: str | Path | None) -> tuple[Path, Manifest]:  # noqa: A002
        from runwire_store.download import download

        folder = self.settings.root / DOWNLOADS / self.id if dir is None else Path(dir).absolute()
        with opened_store(self.settings) as store:
            manifest = _manifest(store, self)
            if manifest is None:
                raise ArtifactError(
                    f"{self.name!r} is not complete in {store.uri} (yet): call .wait() first, and "
                    f"see `runwire status` for why it waits{_elsewhere(self.settings)}"
                )
            try:
                download(store, manifest, folder)
            except OSError as error:
                raise ArtifactError(_unwritable(self.name, folder, error)) from error
        return folder, manifest

    def _is_there(self) -> bool | None:
        """Return whether the store has it; None while that is undecided."""
        from runwire_disk.outbox.requests import FAILED_PREFIX

        outbox = outbox_dir(self.settings.root)
        # In this order: an agent publishes first, then moves the folder in one rename.
        if (outbox / self.id).exists():
            return None
        if (outbox / f"{FAILED_PREFIX}{self.id}").exists():
            return False
        by_kafka = self._goes_by_kafka()
        if by_kafka and self.settings.s3 is None:
            return True  # with the brokers: this trainer cannot see the store they are read into
        try:
            with opened_store(self.settings) as store:
                if store.stat(self.key) is not None:
                    return True
                return False if not by_kafka or _was_published(store, self) else None
        except ArtifactError:
            return None  # the store is unreachable, maybe for good: the timeout decides

    def _goes_by_kafka(self) -> bool:
        if self.route == REFERENCE:
            return choose_route(self.settings).transport == KAFKA
        # Another process logged it by its own settings; this process reads it by ours.
        return self.route == KAFKA and bool(self.settings.kafka_bootstrap_servers)


def unseen(name: str, type: str) -> ArtifactRef:  # noqa: A002 - the word that people know
    """Return the reference that a process gets that records nothing."""
    return ArtifactRef(id="", name=name, type=type, route=UNSEEN, size=0)


def refused() -> ArtifactRef:
    """Return the reference that a failed call gets."""
    return ArtifactRef(id="", name="", type="", route=REFUSED, size=0)


def resolve_artifact(
    settings: Settings, project: str, ref: str, kind: str | None
) -> tuple[ArtifactRef, dict[str, Any]]:
    """Return the artifact that `ref` names now, and the record that a run used it.

    Raises: ArtifactError. Blocks: for the store's answer.
    """
    from runwire_store.announce import used_fields
    from runwire_store.catalog import Catalog

    if not isinstance(ref, str) or not ref:
        raise ArtifactError(f"use_artifact({ref!r:.100}): give 'name', 'name:v3' or 'name:best'")
    with opened_store(settings) as store:
        manifest = Catalog(store).resolve(ref, project).manifest
        uri = f"{store.uri}/{manifest.key}"
    if kind is not None and manifest.type != kind:
        raise ArtifactError(
            f"{ref!r} is of type {manifest.type!r}, not {kind!r}: leave type= out, or name another"
        )
    resolved = ArtifactRef(
        id=manifest.artifact,
        name=manifest.name,
        type=manifest.type,
        route=manifest.route,
        size=manifest.size,
        key=manifest.key,
        project=manifest.project,
        settings=settings,
    )
    return resolved, used_fields(manifest, uri)


@contextmanager
def opened_store(settings: Settings) -> Iterator[ObjectStore]:
    """Open the store that the settings name; its errors become ArtifactErrors."""
    from runwire_store.catalog import CatalogError
    from runwire_store.open import open_catalog

    def as_error(error: RunwireError) -> ArtifactError:
        hint = _elsewhere(settings) if isinstance(error, CatalogError) else ""
        return ArtifactError(f"{error}{hint}")

    with open_catalog(settings.s3, settings.root, as_error) as catalog:
        yield catalog.store


def _manifest(store: ObjectStore, ref: ArtifactRef) -> Manifest | None:
    from runwire_store.manifest import Manifest
    from runwire_store.store import NotFound

    try:
        return Manifest.from_json(store.get(ref.key))
    except NotFound:
        return None


def _unwritable(name: str, folder: Path, error: OSError) -> str:
    return (
        f"{name!r} cannot be written to {folder}: {error.strerror or error}. Give a folder that "
        "this user may write to and that has room, with dir=..."
    )


def _was_published(store: ObjectStore, ref: ArtifactRef) -> bool:
    """Return whether its manifest was published once: since then its version entry pins no blobs.

    Where an object worker publishes, only this distinguishes a deleted artifact from one that has
    yet to arrive. An artifact of references alone never pins blobs, so it stays undecided.
    """
    from runwire_store.layout import name_prefix
    from runwire_store.store import NotFound
    from runwire_store.versions import parse_version_keys, read_entry

    entries = parse_version_keys(store.list(name_prefix(ref.project, ref.name)))
    own = next((entry for entry in entries if entry.artifact == ref.id), None)
    try:
        is_over = (
            own is not None and ref.route != REFERENCE and not read_entry(store, own.key).blobs
        )
    except NotFound:  # lost to another publication just now
        return False
    # Look again: it may have been published between the two requests.
    return is_over and store.stat(ref.key) is None


def _elsewhere(settings: Settings) -> str:
    """Return the hint for a process that reads another store than the object worker fills."""
    if settings.s3 is not None or not settings.kafka_bootstrap_servers:
        return ""
    return (
        f". This process reads {settings.root / 'objects'}; set RUNWIRE_S3_ENDPOINT, _ACCESS_KEY "
        "and _SECRET_KEY_FILE to read the store that the object worker fills"
    )
