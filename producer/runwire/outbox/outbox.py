"""The trainer's half of an upload: content made safe at the call, then told to the agent."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runwire.artifacts.ref import ArtifactRef
from runwire.errors import ArtifactError
from runwire.outbox.capture import Capture, Entry
from runwire.outbox.names import (
    checked_aliases,
    checked_entries,
    checked_name,
    checked_type,
    metadata_text,
)
from runwire.outbox.space import Space
from runwire.outbox.staged import Staged
from runwire_disk.outbox.request import RequestFile, UploadRequest, outbox_dir
from runwire_disk.outbox.route import KAFKA, REFERENCE, UNSEEN, Route, choose_route
from runwire_disk.spool.destination import destination_of
from runwire_store.announce import logged_fields
from runwire_store.manifest import CheckpointFacts

if TYPE_CHECKING:
    from runwire.session import Session
    from runwire_disk.spool.format import Meta

__all__ = ["Entry", "Outbox", "unseen"]

_log = logging.getLogger("runwire")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Outbox:
    """Takes artifacts of one session into its data root. Threads: safe, calls overlap."""

    def __init__(self, session: Session) -> None:
        self._session = session
        settings = session.settings
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
        """Make the content safe, commit the request, record that the artifact was logged.

        Raises: ArtifactError with nothing left behind. Blocks: while content is copied.
        """
        staged = self.stage(name, type, entries, aliases=aliases, metadata=metadata)
        return unseen(name, type) if staged is None else self.commit(staged)

    def stage(
        self,
        name: str,
        type: str,  # noqa: A002 - the word that people know
        entries: Iterable[Entry],
        *,
        aliases: str | Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        checkpoint: CheckpointFacts | None = None,
        artifact: str | None = None,
        created_at_ns: int | None = None,
        awaits: str = "",
    ) -> Staged | None:
        """Make the content safe and write the request down; None where nothing is recorded.

        `artifact` and `created_at_ns` are what the caller has written down for it already; `awaits`
        as in `UploadRequest`. Raises and blocks: as `submit`.
        """
        meta = self._session.identity()
        if meta is None:
            return None
        about = metadata_text(metadata)
        route = self._way()
        request = UploadRequest(
            **_writer_of(meta),
            artifact=artifact or os.urandom(16).hex(),
            name=checked_name(name),
            type=checked_type(type),
            created_at_ns=created_at_ns or time.time_ns(),
            route=route.transport,
            store=route.store,
            files=(),
            aliases=checked_aliases(aliases),
            metadata=json.loads(about) if about else {},
            checkpoint=checkpoint,
            awaits=awaits,
        )
        return self._keep(request, self._planned(checked_entries(entries), route))

    def commit(self, staged: Staged) -> ArtifactRef:
        """Give the agent what was staged; record that the artifact was logged.

        Raises: ArtifactError.
        """
        try:
            with staged:
                staged.commit()
        except OSError as error:
            raise ArtifactError(self._unwritable(staged.request.name, error)) from error
        about = metadata_text(staged.request.metadata)
        self._session.append("artifact", logged_fields(staged.request, about))
        return self._ref(staged.request)

    def _keep(self, request: UploadRequest, planned: list[tuple[Entry, int]]) -> Staged:
        """Bring all content and the request into a folder of their own, or leave no trace."""
        size = sum(size for entry, size in planned if not entry.by_reference)
        self._space.check(size)
        try:
            with contextlib.ExitStack() as undo:
                staged = undo.enter_context(Staged(self._folder / request.artifact, size))
                capture = Capture(staged.folder, self._space.room)
                files = tuple(
                    _by_reference(entry, index, known)
                    if entry.by_reference
                    else capture.take(entry, index)
                    for index, (entry, known) in enumerate(planned)
                )
                staged.stage(replace(request, files=files))
                undo.pop_all()
        except OSError as error:
            raise ArtifactError(self._unwritable(request.name, error)) from error
        return staged

    def _planned(self, entries: list[Entry], route: Route) -> list[tuple[Entry, int]]:
        """Return what becomes of each entry on this route, and its size as it is now."""
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

    def _way(self) -> Route:
        if self._route is None:
            self._route = choose_route(self._session.settings)
            _log.info("runwire: artifacts go %s", self._route.told)
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
            settings=self._session.settings,
        )

    def _unwritable(self, name: str, error: OSError) -> str:
        if error.errno in _FULL:
            return (
                f"the disk of {self._folder} is full, so {name!r} was not kept. Free space there, "
                "or set RUNWIRE_DIR to another disk"
            )
        return (
            f"{name!r} was not kept: cannot write to {self._folder}: {error.strerror or error}. "
            "Set RUNWIRE_DIR to a local writable folder"
        )


def unseen(name: str, type: str) -> ArtifactRef:  # noqa: A002 - the word that people know
    """Return what a call gives in a process that records nothing."""
    return ArtifactRef(id="", name=name, type=type, route=UNSEEN, size=0)


def _writer_of(meta: Meta) -> dict[str, Any]:
    names = ("project", "run_id", "attempt", "writer", "rank", "mode")
    return {"destination": destination_of(meta), **{name: getattr(meta, name) for name in names}}


def _by_reference(entry: Entry, index: int, size: int) -> RequestFile:
    return RequestFile(
        path=entry.path,
        index=index,
        size=size,
        source=str(entry.lies_at or entry.source),
        sha256=entry.sha256,
    )


def _size(entry: Entry) -> int:
    if isinstance(entry.source, bytes):
        return len(entry.source)
    try:
        return entry.source.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{str(entry.source)!r:.300}: {error.strerror or error}") from error
