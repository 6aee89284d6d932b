"""Finding a checkpoint: what lies on this disk and in the store, which one is meant, bringing it.

This disk comes first, but the store is asked too: a run that was trained elsewhere meanwhile must
not silently continue from what an old machine remembers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from runwire.checkpoints.local import LocalCheckpoints, LocalPart, fsync_path
from runwire.checkpoints.verifying import DamagedCheckpoint, Found, content_dir, path_of, verified
from runwire.errors import CheckpointError
from runwire_store.checkpoints import CheckpointView, group_checkpoints
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.retention import find_checkpoint

if TYPE_CHECKING:
    from runwire.settings import Settings
    from runwire_store.store import ObjectStore

__all__ = ["Finder"]

_log = logging.getLogger("runwire")


@dataclass(kw_only=True)
class Finder:
    """Finds the checkpoints of one run for one rank. Threads: one at a time."""

    settings: Settings
    local: LocalCheckpoints
    project: str
    run_id: str
    rank: int
    world_size: int
    # Nodes with disks of their own: what only one of them has, the others cannot load.
    only_stored: bool = False
    _parts: dict[str, LocalPart] = field(default_factory=dict)
    _stored: dict[str, Manifest] = field(default_factory=dict)
    _store: ObjectStore | None = None

    def candidates(self, which: str | int) -> list[CheckpointView]:
        """Return those that are meant, the first choice first; none when the run has none yet.

        Raises: CheckpointError, also when the store cannot be asked and this disk has none, and
        when all that there is cannot be read.
        """
        damaged = self._look_here()
        manifests = {name: part.manifest for name, part in self._parts.items()}
        for_all_nodes = self.only_stored and which in ("latest", "best")
        stored = self._ask_store(damaged, needed=for_all_nodes or not manifests)
        if for_all_nodes:
            manifests = {name: manifests.get(name, stored[name]) for name in stored}
        else:
            manifests = {**stored, **manifests}
        views = group_checkpoints(manifests.values())
        complete = [view for view in views if view.is_complete]
        self._tell(damaged, views, complete)
        try:
            first = find_checkpoint(views, which)
        except ValueError as error:
            raise CheckpointError(f"load_checkpoint({which!r}): {error}") from None
        if which == "latest":
            return complete[::-1]
        if first is not None:
            return [first]
        if not complete and which == "best":
            return []
        steps = ", ".join(str(view.step) for view in complete[-10:])
        had = f"complete are those of the steps {steps}" if steps else "it has none"
        hint = "; mark one with is_best=True or set RUNWIRE_CHECKPOINT_METRIC"
        raise CheckpointError(
            f"run {self.run_id!r} has no checkpoint {which!r}: {had}"
            f"{hint if which == 'best' else ''}"
        )

    def _look_here(self) -> list[str]:
        damaged: list[str] = []
        try:
            found = self.local.parts(damaged)
        except OSError as error:
            raise CheckpointError(
                f"cannot tell whether run {self.run_id!r} has checkpoints: {error}. Make it "
                "readable, or set RUNWIRE_CHECKPOINT_DIR to another folder"
            ) from error
        self._parts = {part.manifest.artifact: part for part in found}
        return damaged

    def _tell(
        self, damaged: list[str], views: list[CheckpointView], complete: list[CheckpointView]
    ) -> None:
        if damaged and not complete:
            raise CheckpointError(
                f"run {self.run_id!r} has checkpoints, and none that can be read: {damaged[-1]}. "
                "Remove its folder to start from scratch"
            )
        if not views and self.settings.kafka_bootstrap_servers and self.settings.s3 is None:
            _log.warning(
                "runwire: run %s has no checkpoint on this disk, and this process cannot see the "
                "store that the object worker fills: set RUNWIRE_S3_ENDPOINT, _ACCESS_KEY and "
                "_SECRET_KEY_FILE if it was trained on another machine",
                self.run_id,
            )
        for problem in damaged:
            _log.warning("runwire: a checkpoint cannot be read and is left out: %s", problem)
        if views and not complete:
            _log.warning(
                "runwire: run %s has checkpoints of ranks, and no step of which all ranks' parts "
                "can be seen from here; that of step %d misses ranks %s",
                self.run_id,
                views[-1].step,
                ", ".join(map(str, views[-1].missing_ranks[:10])),
            )

    def bring(self, view: CheckpointView) -> Found:
        """Return this rank's part, verified, from this disk or else from the store.

        Raises: DamagedCheckpoint; CheckpointError for another number of ranks.
        Blocks: reads all of it.
        """
        manifest = view.first if view.kind != "sharded" else self._own(view)
        found, problem = self._here(manifest)
        if found is not None:
            return found
        stored = self._stored.get(manifest.artifact)
        if stored is None:
            raise DamagedCheckpoint(
                f"checkpoint {view.step}: {problem}, and the store has no copy of it"
            )
        with self.local.fetching():
            found, _ = self._here(manifest)  # another rank was faster
            return found if found is not None else self._fetched(stored, problem)

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _here(self, manifest: Manifest) -> tuple[Found | None, str]:
        """Return what lies on this disk, or why it cannot be used."""
        parts = {part.manifest.artifact: part for part in self.local.parts()}
        self._parts |= parts
        part = parts.get(manifest.artifact)
        if part is None:
            return None, "it is not on this disk"
        try:
            return verified(part, self._stored.get(manifest.artifact)), ""
        except (DamagedCheckpoint, ManifestError, OSError) as error:
            return None, str(error)

    def _fetched(self, manifest: Manifest, problem: str) -> Found:
        from runwire_store.download import DownloadError
        from runwire_store.store import NotFound, StoreError

        try:
            return self._download(manifest)
        except (DownloadError, ManifestError, NotFound) as error:
            raise DamagedCheckpoint(
                f"{problem}, and its copy in the store failed: {error}"
            ) from error
        except (StoreError, OSError) as error:
            assert manifest.checkpoint is not None
            # No reason to go back to an older one without being asked.
            raise CheckpointError(
                f"checkpoint {manifest.checkpoint.step} ({problem}) cannot be brought from the "
                f"store now: {error}. Try again, or name an earlier step"
            ) from error

    def _own(self, view: CheckpointView) -> Manifest:
        if view.facts.world_size != self.world_size:
            raise CheckpointError(
                f"checkpoint {view.step} was saved in parts by {view.facts.world_size} ranks and "
                f"this job has {self.world_size}: start as many, or use torch DCP, which reshards"
            )
        return view.manifests[self.rank]

    def _ask_store(self, damaged: list[str], *, needed: bool) -> dict[str, Manifest]:
        """Return what the store has; nothing when it is away and this disk's may do.

        Raises: CheckpointError where an answer is `needed`: silence is no fresh start.
        """
        from runwire_schemas.errors import RunwireError
        from runwire_store.catalog import Catalog
        from runwire_store.open import open_store

        try:
            self._store = open_store(self.settings.s3, self.settings.root)
            views = Catalog(self._store).checkpoints(self.project, self.run_id)
        except (RunwireError, OSError, ValueError) as error:
            if needed:
                raise CheckpointError(self._unknown(error)) from error
            _log.warning(
                "runwire: the store cannot be asked for newer checkpoints of run %s, those on this "
                "disk are used: %s",
                self.run_id,
                error,
            )
            return {}
        damaged += [f"{key} of the store: {why}" for key, why in views.damaged.items()]
        for view in views:
            for manifest in (*view.manifests.values(), *view.superseded):
                self._stored[manifest.artifact] = manifest
        return self._stored

    def _unknown(self, error: Exception) -> str:
        """Say that nobody can tell what there is to load, and what to do."""
        cannot = f"cannot tell whether run {self.run_id!r} has checkpoints"
        if not self._parts:
            return (
                f"{cannot}: none is in {self.local.folder}, and the store does not answer: "
                f"{error}. Try again, or start without load_checkpoint"
            )
        return (
            f"{cannot} that all nodes of this job can load: the store does not answer: {error}. "
            "Try again, name a step that each node has on its own disk, or set "
            "RUNWIRE_CHECKPOINT_DIR to a folder that all of them share"
        )

    def _download(self, manifest: Manifest) -> Found:
        from runwire_store.download import download

        assert self._store is not None
        with self.local.writing(manifest.artifact) as hidden:
            for path in download(self._store, manifest, content_dir(manifest, hidden)):
                fsync_path(path)
            if (replaced := self._parts.get(manifest.artifact)) is not None:
                self.local.remove(replaced)
            # The copy here is content of its own, also of files that the store only refers to.
            files = tuple(replace(entry, uri="") for entry in manifest.files)
            here = replace(manifest, files=files)
            self.local.prepare(hidden, here)
            part = self.local.publish(hidden, here)
        return Found(
            manifest=manifest,
            folder=part.folder,
            files=tuple(path_of(part, entry) for entry in part.manifest.files),
        )
