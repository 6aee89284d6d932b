"""Requests in the outbox of a trainer, and its events in the spool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runwire.settings import Settings
from runwire_disk.outbox.request import REQUEST_FILE, UploadRequest, content_path, outbox_dir
from runwire_disk.spool.format import Meta
from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_schemas import codec
from runwire_schemas.events import ArtifactEvent, Event, LogEvent
from support.spools import meta


class RecordingWriter:
    """The process behind an outbox, with the settings of the environment."""

    def __init__(self) -> None:
        self.settings = Settings.resolve({})
        self.records: list[tuple[str, Mapping[str, Any]]] = []

    def identity(self) -> Meta:
        return meta()

    def append(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.records.append((kind, fields))


def requests(root: Path) -> list[UploadRequest]:
    """All committed requests, oldest first."""
    folders = [f for f in folders_in(root) if (f / REQUEST_FILE).exists()]
    return sorted((UploadRequest.read(f) for f in folders), key=lambda r: r.created_at_ns)


def folders_in(root: Path) -> list[Path]:
    """All folders of the outbox, interrupted ones too."""
    outbox = outbox_dir(root)
    return sorted(outbox.iterdir()) if outbox.is_dir() else []


def contents(root: Path, request: UploadRequest) -> dict[str, bytes]:
    """The captured contents by path."""
    folder = outbox_dir(root) / request.artifact
    return {
        file.path: content_path(folder, file.index).read_bytes()
        for file in request.files
        if not file.source
    }


def events(root: Path) -> list[Event]:
    """The events of all folders of the spool."""
    found: list[Event] = []
    for folder in list_folders(root):
        reader = FolderReader(folder)
        while cuts := reader.cut():
            found += [codec.decode(cut.value) for cut in cuts if cut.value]
        reader.close()
    return found


def artifact_events(root: Path) -> list[ArtifactEvent]:
    return [event for event in events(root) if isinstance(event, ArtifactEvent)]


def log_events(root: Path) -> list[LogEvent]:
    return [event for event in events(root) if isinstance(event, LogEvent)]
