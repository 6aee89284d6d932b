"""The outbox: one folder per artifact, from the call that logged it until the store has it.

    <data root>/outbox/<artifact>/capture.lock   flock held during the call; text: bytes reserved
    <data root>/outbox/<artifact>/content/<n>    content, linked or copied at the call
    <data root>/outbox/<artifact>/request.json   written last and renamed into place: the commit

A folder without request.json is a call in progress while capture.lock is held, else one that was
interrupted: nothing was promised, unless what its request.json.new awaits is there. Content is
never changed, and has no other name through which it could be written, except hard links of
immutable sources. It is not synced: after a power failure a file may be shorter than its request
says, and then it does not count as content.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from runwire_disk.paths import outbox_dir
from runwire_schemas.connections.secret import read_facts
from runwire_schemas.errors import RunwireError
from runwire_store.layout import artifact_key, checkpoint_key
from runwire_store.manifest import CheckpointFacts

__all__ = [
    "CAPTURE_LOCK",
    "REQUEST_FILE",
    "NewerRequestError",
    "RequestFile",
    "UploadRequest",
    "commit_staged",
    "content_path",
    "outbox_dir",
]

CAPTURE_LOCK: Final = "capture.lock"
REQUEST_FILE: Final = "request.json"
CONTENT_DIR: Final = "content"
_STAGED_FILE: Final = REQUEST_FILE + ".new"
_T = TypeVar("_T")
# Part of request.json. A field that an older agent must not ignore raises it by one.
FORMAT: Final = 1


class OutboxError(RunwireError):
    """A request of the outbox or its content cannot be used."""


class NewerRequestError(OutboxError, ValueError):
    """A newer runwire wrote the request: this version does not know its fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFile:
    """One file: content number `index` of the folder, or by reference at the absolute `source`.

    `sha256` is empty until an agent computes it.
    """

    path: str
    index: int
    size: int
    source: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """Upload of one artifact, with every fact that an agent needs for it.

    `destination` selects the agent, as `destination_of` does for a spool folder; `route` is
    "direct" or "kafka"; `store` is `S3Settings.public()`, or empty for the local folder store. The
    caller makes the path `awaits` before it commits the request: once that exists, the request of
    a dead caller is committed too.
    """

    artifact: str
    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    name: str
    type: str
    created_at_ns: int
    destination: str
    route: str
    files: tuple[RequestFile, ...]
    mode: str = "online"
    store: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: CheckpointFacts | None = None
    awaits: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def key(self) -> str:
        """Key of the manifest in a store."""
        facts = self.checkpoint
        if facts is None:
            return artifact_key(self.project, self.run_id, self.artifact)
        return checkpoint_key(
            self.project,
            self.run_id,
            step=facts.step,
            attempt=self.attempt,
            rank=self.rank,
            artifact=self.artifact,
        )

    def commit(self, folder: Path) -> None:
        """Write request.json: from now on an agent uploads the artifact. Raises: OSError."""
        self.stage(folder)
        commit_staged(folder)

    def stage(self, folder: Path) -> None:
        """Write everything that a commit needs except its rename. Raises: OSError."""
        fields = {"format": FORMAT, **asdict(replace(self, files=()))}
        names = RequestFile.__slots__
        # By hand: asdict copies deeply, which a hundred thousand files would notice.
        fields["files"] = [{name: getattr(file, name) for name in names} for file in self.files]
        descriptor = os.open(folder / _STAGED_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(fields))  # `dump` would take Python's slow encoder
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the request of a folder.

        Raises: FileNotFoundError, NewerRequestError, ValueError when damaged.
        """
        return cls._read(folder / REQUEST_FILE)

    @classmethod
    def read_staged(cls, folder: Path) -> Self:
        """Return a request that is not committed. Raises: as `read`."""
        return cls._read(folder / _STAGED_FILE)

    @classmethod
    def _read(cls, path: Path) -> Self:
        fields = json.loads(path.read_text(encoding="utf-8"))
        try:
            if operator.index(fields.pop("format", FORMAT)) > FORMAT:
                raise NewerRequestError(f"{path} was written by a newer runwire")
            facts = fields.pop("checkpoint")
            files = tuple(_construct(RequestFile, entry) for entry in fields.pop("files"))
            fields["aliases"] = tuple(fields["aliases"])
            fields["store"] = read_facts(fields.get("store", {}))
            return _construct(
                cls,
                fields,
                files=files,
                checkpoint=None if facts is None else _construct(CheckpointFacts, facts),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from error


def commit_staged(folder: Path) -> None:
    """Rename a staged request into place. Raises: OSError."""
    (folder / _STAGED_FILE).replace(folder / REQUEST_FILE)


def content_path(folder: Path, index: int) -> Path:
    """Return the path of content number `index` in an artifact's folder."""
    return folder / CONTENT_DIR / str(index)


def _construct(kind: type[_T], fields: Mapping[str, Any], **more: Any) -> _T:
    """Make an object of these fields, without those that only a newer runwire has."""
    names = kind.__slots__  # type: ignore[attr-defined]
    return kind(**{name: value for name, value in fields.items() if name in names}, **more)
