"""The trainer's half of an upload: content made safe at the call, then told to the agent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runwire.artifacts.ref import ArtifactRef
from runwire.errors import ArtifactError
from runwire.uploads.capture import Capture, Entry
from runwire.uploads.names import (
    checked_aliases,
    checked_entries,
    checked_name,
    checked_type,
    metadata_text,
)
from runwire.uploads.request import (
    CAPTURE_LOCK,
    CONTENT_DIR,
    REQUEST_FILE,
    RequestFile,
    UploadRequest,
    outbox_dir,
)
from runwire.uploads.route import KAFKA, REFERENCE, UNSEEN, Route, choose_route
from runwire.uploads.space import Space
from runwire_schemas.objects.manifest import CheckpointFacts
from runwire_schemas.spool.destination import destination_of

if TYPE_CHECKING:
    from runwire.session import Session
    from runwire_schemas.spool.format import Meta

__all__ = ["Entry", "Outbox"]

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
        checkpoint: CheckpointFacts | None = None,
        artifact: str | None = None,
        created_at_ns: int | None = None,
    ) -> ArtifactRef:
        """Make the content safe, commit the request, record that the artifact was logged.

        `artifact` and `created_at_ns` are what the caller has written down for it already.
        Raises: ArtifactError with nothing left behind. Blocks: while content is copied.
        """
        meta = self._session.identity()
        if meta is None:
            return ArtifactRef(id="", name=name, type=type, route=UNSEEN, size=0)
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
        )
        request = self._keep(request, self._planned(checked_entries(entries), route))
        self._session.append("artifact", _logged(request, about))
        return self._ref(request)

    def _keep(self, request: UploadRequest, planned: list[tuple[Entry, int]]) -> UploadRequest:
        """Bring all content into a folder of its own and commit it, or leave no trace."""
        folder = self._folder / request.artifact
        size = sum(size for entry, size in planned if not entry.by_reference)
        self._space.check(size)
        try:
            with self._made(folder, size):
                capture = Capture(folder, self._space.room)
                files = tuple(
                    _by_reference(entry, index, known)
                    if entry.by_reference
                    else capture.take(entry, index)
                    for index, (entry, known) in enumerate(planned)
                )
                complete = replace(request, files=files)
                complete.commit(folder)
        except OSError as error:
            raise ArtifactError(self._unwritable(request.name, error)) from error
        return complete

    @contextlib.contextmanager
    def _made(self, folder: Path, size: int) -> Iterator[None]:
        """Hold a new folder's lock: no agent takes it for an abandoned one."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        lock = -1
        try:
            lock = os.open(folder / CAPTURE_LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(lock, b"%d" % size)
            (folder / CONTENT_DIR).mkdir(mode=0o700)
            yield
        except BaseException:
            # Once committed it is the agent's, even if a signal struck between here and there.
            if not (folder / REQUEST_FILE).exists():
                _discard(folder)
            raise
        finally:
            if lock >= 0:
                os.close(lock)

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


def _writer_of(meta: Meta) -> dict[str, Any]:
    names = ("project", "run_id", "attempt", "writer", "rank", "mode")
    return {"destination": destination_of(meta), **{name: getattr(meta, name) for name in names}}


def _logged(request: UploadRequest, about: str | None) -> dict[str, Any]:
    only = request.files[0].sha256 if len(request.files) == 1 else ""
    return {
        "at_ns": request.created_at_ns,
        "artifact": request.artifact,
        "event": "logged",
        "name": request.name,
        "type": request.type,
        "aliases": list(request.aliases) or None,
        "metadata": about,
        "files": len(request.files),
        "bytes": request.size,
        "sha256": only,
        "uri": "",
        "route": request.route,
    }


def _by_reference(entry: Entry, index: int, size: int) -> RequestFile:
    return RequestFile(
        path=entry.path, index=index, size=size, source=str(entry.source), sha256=entry.sha256
    )


def _size(entry: Entry) -> int:
    if isinstance(entry.source, bytes):
        return len(entry.source)
    try:
        return entry.source.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{str(entry.source)!r:.300}: {error.strerror or error}") from error


def _discard(folder: Path) -> None:
    """Remove a folder that was never committed."""
    for path in (folder / CONTENT_DIR, folder):
        with contextlib.suppress(OSError):
            for entry in os.scandir(path):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108 - a hundred thousand of them
            path.rmdir()
