"""The outbox of one process: content captured at the call, then handed to the agent."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from runwire.errors import ArtifactError
from runwire.outbox.arguments import (
    Entry,
    check_aliases,
    check_entries,
    check_name,
    check_type,
    metadata_text,
)
from runwire.outbox.capture import Capture, Staged
from runwire.outbox.ref import ArtifactRef, unseen
from runwire_disk.files import descriptor_shortage
from runwire_disk.interrupts import reraise_interrupt
from runwire_disk.outbox.request import CAPTURE_LOCK, RequestFile, UploadRequest, outbox_dir
from runwire_disk.outbox.requests import FAILED_PREFIX
from runwire_disk.outbox.route import KAFKA, REFERENCE, Route, choose_route
from runwire_disk.spool.format import destination_of
from runwire_disk.spool.quota import bytes_kept_free
from runwire_store.announce import logged_fields
from runwire_store.manifest import CheckpointFacts

if TYPE_CHECKING:
    from runwire.settings import Settings
    from runwire_disk.spool.format import Meta

__all__ = ["Outbox", "Space", "Writer"]

_log = logging.getLogger("runwire")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Writer(Protocol):
    """The process that logs artifacts: its settings, its name and its lifecycle records."""

    @property
    def settings(self) -> Settings:
        """Settings of the process."""

    def identity(self) -> Meta | None:
        """Return the name that the process logs under, None when it logs nothing."""

    def append(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Append one lifecycle record."""


class Space:
    """Room in the outbox, shared by all processes of a data root. Threads: safe.

    Adds up the bytes that each capture has reserved.
    """

    def __init__(self, root: Path, *, bytes_max: int, free_ratio_min: float) -> None:
        self._folder, self._bytes_max = outbox_dir(root), bytes_max
        self._free_ratio_min = free_ratio_min
        # By folder name. A reservation never changes once it can be read.
        self._reserved: dict[str, int] = {}

    def check(self, size: int) -> None:
        """Raises: ArtifactError when the outbox has no room for `size` more bytes."""
        used = self.used()
        if used + size > self._bytes_max:
            raise ArtifactError(
                f"the outbox {self._folder} holds {_mib(used)} that wait for their store, and "
                f"{_mib(size)} more exceed its {_mib(self._bytes_max)}: see `runwire status` for "
                "why they wait, or raise RUNWIRE_OUTBOX_BYTES"
            )

    def used(self) -> int:
        """Return the bytes that wait for upload, without those that failed or are being deleted."""
        try:
            listing = os.listdir(self._folder)  # noqa: PTH208 - names are all that is needed
        except FileNotFoundError:
            return 0
        names = {name for name in listing if not name.startswith((".", FAILED_PREFIX))}
        known = {name: size for name, size in self._reserved.items() if name in names}
        for name in names - known.keys():
            size = self._read(name)
            if size is not None:
                known[name] = size
        self._reserved = known
        return sum(known.values())

    def room(self) -> int:
        """Return the bytes that copies may take on the disk now. Raises: OSError."""
        disk = os.statvfs(self._folder)
        kept_free = bytes_kept_free(disk, self._free_ratio_min)
        return int(disk.f_bavail * disk.f_frsize - kept_free)

    def _read(self, name: str) -> int | None:
        try:
            return int((self._folder / name / CAPTURE_LOCK).read_text("ascii"))
        except (OSError, ValueError) as error:
            reraise_interrupt(error)
            return None  # being made, being removed, or not a folder of ours


class Outbox:
    """Takes artifacts of one process into its data root. Threads: safe, calls overlap."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        settings = writer.settings
        self._folder = outbox_dir(settings.root)
        self._space = Space(
            settings.root,
            bytes_max=settings.outbox_bytes,
            free_ratio_min=settings.disk_free_ratio_min,
        )
        self._route: Route | None = None
        self._warned = False

    def submit(
        self,
        name: str,
        type: str,  # noqa: A002 - the word that people know
        entries: Iterable[Entry],
        *,
        aliases: str | Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        """Capture the content, commit the request, record that the artifact was logged.

        Raises: ArtifactError with nothing left behind. Blocks: while content is copied.
        """
        with self.staging() as staged:
            if self.stage(staged, name, type, entries, aliases=aliases, metadata=metadata):
                return self.commit(staged)
        return unseen(name, type)

    def staging(self, artifact: str | None = None) -> Staged:
        """Return the place of a new artifact, by the id that the caller has recorded for it.

        The caller enters it before `stage`, and leaves it after `commit` or when anything failed.
        """
        return Staged(self._folder / (artifact or os.urandom(16).hex()))

    def stage(
        self,
        staged: Staged,
        name: str,
        type: str,  # noqa: A002 - the word that people know
        entries: Iterable[Entry],
        *,
        aliases: str | Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        checkpoint: CheckpointFacts | None = None,
        created_at_ns: int | None = None,
        awaits: str = "",
    ) -> bool:
        """Capture the content and write the request; False where nothing is recorded.

        `created_at_ns` is what the caller has recorded already; `awaits` is that of
        `UploadRequest`. Raises and blocks: as `submit`.
        """
        meta = self._writer.identity()
        if meta is None:
            return False
        about = metadata_text(metadata)
        route = self._chosen_route()
        request = UploadRequest(
            **_place_of(meta),
            artifact=staged.folder.name,
            name=check_name(name),
            type=check_type(type),
            created_at_ns=created_at_ns or time.time_ns(),
            route=route.transport,
            store=route.store,
            files=(),
            aliases=check_aliases(aliases),
            metadata=json.loads(about) if about else {},
            checkpoint=checkpoint,
            awaits=awaits,
        )
        self._keep(staged, request, self._plan(check_entries(entries), route))
        return True

    def commit(self, staged: Staged) -> ArtifactRef:
        """Hand a staged request to the agent; record that the artifact was logged.

        Raises: ArtifactError.
        """
        request = staged.request
        assert request is not None
        try:
            staged.commit()
        except OSError as error:
            raise ArtifactError(self._unwritable(request.name, error)) from error
        about = metadata_text(request.metadata)
        self._writer.append("artifact", logged_fields(request, about))
        return self._ref(request)

    def _keep(
        self, staged: Staged, request: UploadRequest, planned: list[tuple[Entry, int]]
    ) -> None:
        """Bring content and request into the folder of `staged`."""
        size = sum(size for entry, size in planned if not entry.by_reference)
        try:
            self._space.check(size)
            staged.make(size)
            capture = Capture(staged.folder, self._space.room)
            files = tuple(
                _by_reference(entry, index, size)
                if entry.by_reference
                else capture.take(entry, index)
                for index, (entry, size) in enumerate(planned)
            )
            staged.stage(replace(request, files=files))
        except OSError as error:
            raise ArtifactError(self._unwritable(request.name, error)) from error

    def _plan(self, entries: list[Entry], route: Route) -> list[tuple[Entry, int]]:
        """Return each entry as this route takes it, with its size as it is now."""
        planned = [(entry, _size(entry)) for entry in entries]
        limit = route.content_bytes_max
        if limit is not None:
            planned = [
                (replace(entry, by_reference=True), size)
                if size > limit and isinstance(entry.source, Path)
                else (entry, size)
                for entry, size in planned
            ]
        if route.transport == KAFKA:
            self._check_kafka(planned, route)
        return planned

    def _check_kafka(self, planned: list[tuple[Entry, int]], route: Route) -> None:
        limit = route.content_bytes_max or 0
        large = [(entry, size) for entry, size in planned if limit and size > limit]
        for entry, size in large:
            if not isinstance(entry.source, Path):
                raise ArtifactError(
                    f"{entry.path!r} has {size} bytes, more than Kafka takes "
                    "(RUNWIRE_ARTIFACT_KAFKA_BYTES_MAX): write it to a file and log that"
                )
        if large and not self._warned:
            self._warned = True
            entry, size = large[0]
            _log.warning(
                "runwire: %s has %d bytes, more than go through Kafka "
                "(RUNWIRE_ARTIFACT_KAFKA_BYTES_MAX): only its path and digest are recorded, so the "
                "file has to stay there. Set RUNWIRE_S3_ENDPOINT to upload it.",
                entry.source,
                size,
            )
        names = sum(len(entry.path) for entry, _ in planned)
        if not route.manifest_fits(names, len(planned), sum(size for _, size in planned)):
            raise ArtifactError(
                f"the list of its {len(planned)} files is longer than a Kafka message: pack them "
                "into one archive, or set RUNWIRE_S3_ENDPOINT"
            )

    def _chosen_route(self) -> Route:
        if self._route is None:
            self._route = choose_route(self._writer.settings)
            _log.info("runwire: artifacts go %s", self._route.sentence)
        return self._route

    def _ref(self, request: UploadRequest) -> ArtifactRef:
        is_reference = all(file.source for file in request.files)
        return ArtifactRef(
            id=request.artifact,
            name=request.name,
            type=request.type,
            route=REFERENCE if is_reference else request.route,
            size=request.size,
            key=request.key,
            project=request.project,
            settings=self._writer.settings,
        )

    def _unwritable(self, name: str, error: OSError) -> str:
        if shortage := descriptor_shortage(error):
            return f"{name!r} was not kept: {shortage}"
        if error.errno in _FULL:
            return (
                f"the disk of {self._folder} is full, so {name!r} was not kept. Free space there, "
                "or set RUNWIRE_DIR to another disk"
            )
        return (
            f"{name!r} was not kept: cannot write to {self._folder}: {error.strerror or error}. "
            "Set RUNWIRE_DIR to a local writable folder"
        )


def _place_of(meta: Meta) -> dict[str, Any]:
    names = ("project", "run_id", "attempt", "writer", "rank", "mode")
    return {"destination": destination_of(meta), **{name: getattr(meta, name) for name in names}}


def _by_reference(entry: Entry, index: int, size: int) -> RequestFile:
    return RequestFile(
        path=entry.path,
        index=index,
        size=size,
        source=str(entry.final_path or entry.source),
        sha256=entry.sha256,
    )


def _size(entry: Entry) -> int:
    if isinstance(entry.source, bytes):
        return len(entry.source)
    try:
        return entry.source.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{str(entry.source)!r:.300}: {error.strerror or error}") from error


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
