"""Search for checkpoints of a run: candidates on this disk and in the store, one brought here.

This disk is preferred, but the store is always asked: a run that was trained elsewhere meanwhile
must not silently continue from the checkpoints of an old machine.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Self

from runwire.checkpoints.local import (
    DamagedCheckpoint,
    LocalCheckpoints,
    LocalPart,
    VerifiedPart,
    content_dir,
    path_of,
    verify,
)
from runwire.errors import CheckpointError, ConfigError, RunwireError
from runwire.job.ranks import detect_ranks
from runwire_disk.files import descriptor_shortage, sync_file
from runwire_disk.spool.run_notes import noted_runs, read_note
from runwire_store.checkpoints import CheckpointView, group_checkpoints
from runwire_store.manifest import Manifest, ManifestError
from runwire_store.retention import find_checkpoint

if TYPE_CHECKING:
    from runwire.session import Session
    from runwire.settings import Settings
    from runwire_store.store import ObjectStore

__all__ = ["Finder", "finder_for"]

_log = logging.getLogger("runwire")
_RUNS_MAX = 5  # in a sentence


@dataclass(kw_only=True)
class Finder:
    """Finds the checkpoints of one run for one rank. Threads: one at a time."""

    settings: Settings
    local: LocalCheckpoints
    project: str
    run_id: str
    rank: int
    world_size: int
    # Nodes with disks of their own: others cannot load a checkpoint that only one disk has.
    only_stored: bool = False
    # This process's own run; another one was named, and its name may be wrong.
    is_own: bool = True
    _parts: dict[str, LocalPart] = field(default_factory=dict)
    _stored: dict[str, Manifest] = field(default_factory=dict)
    _store: ObjectStore | None = None

    def candidates(self, which: str | int) -> list[CheckpointView]:
        """Return the matching checkpoints, the first choice first; none when the run has none yet.

        Raises: CheckpointError, also when the store is unreachable and this disk has none, and
        when none can be read.
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
        self._report(damaged, views, complete)
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
        had = f"complete ones: steps {steps}" if steps else "it has none"
        hint = "; mark one with is_best=True or set RUNWIRE_CHECKPOINT_METRIC"
        raise CheckpointError(
            f"run {self.run_id!r} has no checkpoint {which!r}: {had}"
            f"{hint if which == 'best' else ''}"
        )

    def _look_here(self) -> list[str]:
        damaged: list[str] = []
        try:
            parts = self.local.parts(damaged)
        except OSError as error:
            unreadable = (
                f"{error}. Make the folder readable, or set RUNWIRE_CHECKPOINT_DIR to another one"
            )
            raise CheckpointError(
                f"it is unknown whether run {self.run_id!r} has checkpoints: "
                f"{descriptor_shortage(error) or unreadable}"
            ) from error
        self._parts = {part.manifest.artifact: part for part in parts}
        return damaged

    def _report(
        self, damaged: list[str], views: list[CheckpointView], complete: list[CheckpointView]
    ) -> None:
        if damaged and not complete:
            raise CheckpointError(
                f"run {self.run_id!r} has checkpoints, but none can be read: {damaged[-1]}. "
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
            _log.warning("runwire: a checkpoint cannot be read and is skipped: %s", problem)
        if views and not complete:
            _log.warning(
                "runwire: run %s has sharded checkpoints, but this process sees no step with the "
                "parts of all ranks; step %d lacks ranks %s",
                self.run_id,
                views[-1].step,
                ", ".join(map(str, views[-1].missing_ranks[:10])),
            )

    def bring(self, view: CheckpointView) -> VerifiedPart:
        """Return this rank's part, verified, from this disk or else from the store.

        Raises: DamagedCheckpoint; CheckpointError for another number of ranks.
        Blocks: reads all of it.
        """
        manifest = view.first if view.kind != "sharded" else self._own(view)
        part, problem = self._check_here(manifest)
        if part is not None:
            return part
        stored = self._stored.get(manifest.artifact)
        if stored is None:
            raise DamagedCheckpoint(
                f"checkpoint {view.step}: {problem}, and the store has no copy of it"
            )
        with self.local.fetching():
            part, _ = self._check_here(manifest)  # another rank may have been faster
            return part if part is not None else self._fetch(stored, problem)

    def bring_first(self, which: str | int) -> VerifiedPart | None:
        """Return this rank's part of the first candidate that is undamaged; None without any.

        Raises: CheckpointError, also where falling back alone would separate this rank from others.
        """
        candidates = self.candidates(which)
        problems: list[str] = []
        for index, view in enumerate(candidates):
            try:
                part = self.bring(view)
            except DamagedCheckpoint as error:
                if view.kind == "sharded" or self.only_stored:
                    reason = self._refusal(view, candidates[index + 1 :], error)
                    raise CheckpointError(reason) from error
                problems.append(str(error))
                continue
            for problem in problems:
                _log.warning(
                    "runwire: %s. An earlier checkpoint is loaded instead, that of step %d",
                    problem,
                    view.step,
                )
            return part
        if not candidates:
            self._check_known()
            return None
        raise CheckpointError(
            f"run {self.run_id!r}: no checkpoint {which!r} can be loaded. " + ". ".join(problems)
        )

    def _check_known(self) -> None:
        """Refuse a run that neither this machine nor the store knows. Raises: CheckpointError."""
        if self.is_own:
            return
        root = self.settings.root
        if read_note(root, self.project, self.run_id):
            return
        from runwire_store.open import open_catalog

        def as_error(error: RunwireError) -> CheckpointError:
            return CheckpointError(f"it is unknown whether run {self.run_id!r} exists: {error}")

        with open_catalog(self.settings.s3, root, as_error) as catalog:
            if catalog.knows_run(self.project, self.run_id):
                return
            store = catalog.store.uri
        started = noted_runs(root, self.project)
        near = get_close_matches(self.run_id, started, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        shown = ", ".join(map(repr, started[:_RUNS_MAX])) or "none"
        raise CheckpointError(
            f"there is no run {self.run_id!r} in project {self.project!r}: it was not started from "
            f"{root} (latest runs there: {shown}) and keeps nothing in {store}{hint}"
        )

    def _refusal(
        self, view: CheckpointView, earlier: Sequence[CheckpointView], error: DamagedCheckpoint
    ) -> str:
        """Return why this rank does not fall back: the others might load the damaged step."""
        step = next((other.step for other in earlier if other.step != view.step), None)
        advice = "name an earlier step" if step is None else f"call load_checkpoint({step})"
        noun = "part" if view.kind == "sharded" else "copy"
        return (
            f"the {noun} of rank {self.rank} of checkpoint {view.step} cannot be used: {error}. "
            "Other ranks may have an undamaged one, so this rank does not fall back alone: "
            f"{advice} on all ranks"
        )

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_here(self, manifest: Manifest) -> tuple[VerifiedPart | None, str]:
        """Return the part on this disk, or why it cannot be used."""
        try:
            parts = {part.manifest.artifact: part for part in self.local.parts()}
            self._parts |= parts
            part = parts.get(manifest.artifact)
            if part is None:
                return None, "it is not on this disk"
            return verify(part, self._stored.get(manifest.artifact)), ""
        except (DamagedCheckpoint, ManifestError, OSError) as error:
            if isinstance(error, OSError) and (shortage := descriptor_shortage(error)):
                # Not a reason to fall back to an older one without being asked.
                raise CheckpointError(f"no checkpoint can be read: {shortage}") from error
            return None, str(error)

    def _fetch(self, manifest: Manifest, problem: str) -> VerifiedPart:
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
            # Not a reason to fall back to an older one without being asked.
            raise CheckpointError(
                f"checkpoint {manifest.checkpoint.step} ({problem}) cannot be downloaded from "
                f"the store now: {error}. Try again, or name an earlier step"
            ) from error

    def _own(self, view: CheckpointView) -> Manifest:
        if view.facts.world_size != self.world_size:
            raise CheckpointError(
                f"checkpoint {view.step} was saved in parts by {view.facts.world_size} ranks and "
                f"this job has {self.world_size}: start as many, or use torch DCP, which reshards"
            )
        return view.manifests[self.rank]

    def _ask_store(self, damaged: list[str], *, needed: bool) -> dict[str, Manifest]:
        """Return the manifests in the store; none when it is unreachable and not `needed`.

        Raises: CheckpointError when it is: a run must not start from scratch by accident.
        """
        from runwire_store.catalog import Catalog
        from runwire_store.open import open_store

        try:
            self._store = open_store(self.settings.s3, self.settings.root)
            views = Catalog(self._store).checkpoints(self.project, self.run_id)
        except (RunwireError, OSError, ValueError) as error:
            if needed:
                raise CheckpointError(self._unknown(error)) from error
            _log.warning(
                "runwire: the store cannot be asked for newer checkpoints of run %s; those on this "
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
        """Return why it is unknown which checkpoints exist, and what to do."""
        cannot = f"it is unknown whether run {self.run_id!r} has checkpoints"
        if not self._parts:
            return (
                f"{cannot}: none is in {self.local.folder}, and the store is unreachable: "
                f"{error}. Try again, or start without load_checkpoint"
            )
        return (
            f"{cannot} that all nodes of this job can load: the store is unreachable: {error}. "
            "Try again, name a step that each node has on its own disk, or set "
            "RUNWIRE_CHECKPOINT_DIR to a folder that all of them share"
        )

    def _download(self, manifest: Manifest) -> VerifiedPart:
        from runwire_store.download import download

        assert self._store is not None
        with self.local.writing(manifest.artifact) as hidden:
            for path in download(self._store, manifest, content_dir(manifest, hidden)):
                sync_file(path)
            if (replaced := self._parts.get(manifest.artifact)) is not None:
                self.local.remove(replaced)
            # This copy is content of its own, even of files that the store only refers to.
            files = tuple(replace(entry, uri="") for entry in manifest.files)
            here = replace(manifest, files=files)
            self.local.prepare(hidden, here)
            part = self.local.publish(hidden, here)
        return VerifiedPart(
            manifest=manifest,
            folder=part.folder,
            files=tuple(path_of(part, entry) for entry in part.manifest.files),
        )


def finder_for(session: Session, own: LocalCheckpoints, run_id: str | None) -> Finder:
    """Return a finder for the checkpoints of this run, or of another run of its project.

    `own` are this run's checkpoints on this disk.
    """
    meta, settings = session.meta, session.settings
    spans_disks = settings.checkpoint_dir is None and _spans_nodes()
    if settings.s3_endpoint is None and spans_disks:
        _log.warning(
            "runwire: this job spans several nodes, which cannot see each other's checkpoints: "
            "set RUNWIRE_CHECKPOINT_DIR to a folder that all of them share, or RUNWIRE_S3_ENDPOINT"
        )
    is_own = run_id is None or run_id == meta.run_id
    return Finder(
        settings=settings,
        local=own if is_own else LocalCheckpoints.of(settings, meta, run_id),
        project=meta.project,
        run_id=run_id or meta.run_id,
        rank=meta.rank,
        world_size=meta.world_size,
        only_stored=spans_disks and settings.s3_endpoint is not None,
        is_own=is_own,
    )


def _spans_nodes() -> bool:
    try:
        return not detect_ranks().one_node
    except ConfigError:
        return False
