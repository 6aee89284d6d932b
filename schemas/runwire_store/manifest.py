"""Manifests: the files and facts of an artifact or checkpoint, as JSON in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import Any, Final, Self

from runwire_schemas.identity import run_key
from runwire_store.layout import artifact_key, blob_key, checkpoint_key
from runwire_store.store import NotFound, ObjectStore, StoreError

__all__ = [
    "EMPTY_SHA256",
    "CheckpointFacts",
    "FileEntry",
    "Manifest",
    "ManifestError",
    "check_files",
    "check_path",
    "checkpoint_name",
    "read_manifest",
]

FORMAT: Final = 1
# Limits of file systems: 255 bytes in a name, and room for a folder before the path.
NAME_BYTES_MAX: Final = 255
PATH_BYTES_MAX: Final = 3000
KINDS: Final = ("full", "sharded", "dcp")
# An empty file needs no blob.
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
# "%" too, so that two run ids never become one name.
_QUOTED: Final = str.maketrans({sign: f"%{ord(sign):02X}" for sign in "%:/\\"})
# JSON types allowed for each annotation; `bool` is no number here.
_PLAIN: Final = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}


class ManifestError(StoreError, ValueError):
    """A manifest or a path in it is invalid; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file; its content is the blob `sha256`, or at `uri` if that is not empty."""

    path: str
    size: int
    sha256: str
    uri: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """The facts that make an artifact a checkpoint; `retention` as `Retention.as_json`.

    `kind` is "full" (one rank saved everything), "sharded" (each rank its own part) or "dcp".
    Units: durations in seconds; `blocked_s` is the time that training waited.
    """

    step: int
    kind: str = "full"
    world_size: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_best: bool = False
    duration_s: float = 0.0
    blocked_s: float = 0.0
    raw_bytes: int = 0
    retention: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One artifact; `version_at_ns` is the stamp of its version, 0 before its publication."""

    artifact: str
    project: str
    run_id: str
    attempt: str
    writer: str
    rank: int
    name: str
    type: str
    created_at_ns: int
    files: tuple[FileEntry, ...]
    aliases: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: CheckpointFacts | None = None
    route: str = "direct"
    version_at_ns: int = 0

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 of the only file, or of the list of all files and their digests."""
        if len(self.files) == 1:
            return self.files[0].sha256
        rows = sorted((entry.path, entry.size, entry.sha256) for entry in self.files)
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @property
    def key(self) -> str:
        """Key of the manifest in a store."""
        if self.checkpoint is None:
            return artifact_key(self.project, self.run_id, self.artifact)
        return checkpoint_key(
            self.project,
            self.run_id,
            step=self.checkpoint.step,
            attempt=self.attempt,
            rank=self.rank,
            artifact=self.artifact,
        )

    def versioned(self, stamp_ns: int) -> Manifest:
        """Return a copy with the stamp of its version."""
        return replace(self, version_at_ns=stamp_ns)

    def to_json(self) -> bytes:
        """Return the stored form; equal manifests give equal bytes."""
        fields = {"format": FORMAT, **asdict(self), "size": self.size, "digest": self.digest}
        return json.dumps(fields, sort_keys=True, ensure_ascii=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse a stored manifest. Raises: ManifestError unless it is valid and consistent."""
        try:
            fields = json.loads(data)
            if fields.pop("format") != FORMAT:
                raise ManifestError("the manifest was written by a newer runwire; upgrade to read")
            stored = (fields.pop("size"), fields.pop("digest"))
            files = tuple(FileEntry(**entry) for entry in fields.pop("files"))
            facts = fields.pop("checkpoint")
            if type(fields["aliases"]) is not list:
                raise TypeError(f"aliases are {fields['aliases']!r:.80}, no list")
            manifest = cls(
                **{**fields, "aliases": tuple(fields["aliases"])},
                files=files,
                checkpoint=None if facts is None else CheckpointFacts(**facts),
            )
            _check_types(manifest)
            key, computed = manifest.key, (manifest.size, manifest.digest)
        except ManifestError:
            raise
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ManifestError(f"this is no manifest of an artifact: {error!r}") from error
        for entry in files:
            check_path(entry.path)
        if stored != computed:
            raise ManifestError(f"manifest {key} is damaged: its files do not match its digest")
        return manifest


def _check_types(manifest: Manifest) -> None:
    """Raises: TypeError for values that JSON can hold and a manifest cannot."""
    facts = manifest.checkpoint
    for thing in (manifest, *manifest.files, *(() if facts is None else (facts,))):
        for row in fields(thing):
            value, kind = getattr(thing, row.name), str(row.type)
            if kind in _PLAIN and type(value) not in _PLAIN[kind]:
                raise TypeError(f"{row.name} is {value!r:.80}, not {kind}")
            if type(value) is int and not -(2**63) <= value < 2**63:
                raise TypeError(f"{row.name} is a number beyond 64 bits")
            if type(value) is str:
                value.encode()  # no lone surrogate: events and views could not hold it
    if not all(type(alias) is str and alias.encode() for alias in manifest.aliases):
        raise TypeError(f"aliases are {manifest.aliases!r:.80}, not words")
    if type(manifest.metadata) is not dict:
        raise TypeError(f"metadata is {manifest.metadata!r:.80}, no object")
    if facts is not None:
        _check_facts(facts)
    if not 0 <= manifest.rank < 2**31 or any(entry.size < 0 for entry in manifest.files):
        raise TypeError("a rank or a size is out of range")


def _check_facts(facts: CheckpointFacts) -> None:
    if type(facts.metrics) is not dict or type(facts.retention) is not dict:
        raise TypeError("metrics or rules of a checkpoint are no object")
    if not all(type(value) in _PLAIN["float"] for value in facts.metrics.values()):
        raise TypeError(f"metrics are {facts.metrics!r:.80}, not numbers")
    if facts.kind not in KINDS or facts.step < 0 or facts.world_size < 1:
        raise TypeError(
            f"no checkpoint is {facts.kind!r:.80} at {facts.step} of {facts.world_size}"
        )


def check_path(path: str) -> str:
    """Return a relative path that stays within any folder it is appended to.

    Raises: ManifestError for absolute paths, "..", empty or overlong names and control characters.
    """
    parts = path.split("/")
    if PurePosixPath(path).is_absolute() or "\\" in path:
        raise ManifestError(f"{path[:200]!r}: give a relative path with '/' between its parts")
    for part in parts:
        if part in ("", ".", ".."):
            raise ManifestError(f"{path[:200]!r}: no part may be empty, '.' or '..'")
        if len(part.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
            raise ManifestError(f"{path[:80]!r}…: a name has more than {NAME_BYTES_MAX} bytes")
        if any(ord(sign) < 32 or 0xD800 <= ord(sign) <= 0xDFFF for sign in part):
            raise ManifestError(f"{path[:200]!r}: control characters are no part of a name")
    if len(path.encode()) > PATH_BYTES_MAX:
        raise ManifestError(f"{path[:80]!r}…: a path has more than {PATH_BYTES_MAX} bytes")
    return path


def check_files(files: tuple[FileEntry, ...]) -> None:
    """Raises: ManifestError for paths or digests that no folder or store can hold."""
    paths = {check_path(entry.path) for entry in files}
    if len(paths) != len(files):
        raise ManifestError("the artifact has two files of one path; give them different ones")
    for entry in files:
        parents = entry.path.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            if (folder := "/".join(parents[:depth])) in paths:
                raise ManifestError(f"{folder[:200]!r} is a file and a folder at once; rename one")
        try:
            blob_key(entry.sha256)
        except ValueError as error:
            raise ManifestError(f"{entry.path[:200]!r}: {error}") from error
        if entry.size < 0 or (entry.size and entry.sha256 == EMPTY_SHA256):
            raise ManifestError(f"{entry.path[:200]!r}: {entry.size} bytes cannot be its size")


def read_manifest(store: ObjectStore, key: str) -> Manifest | None:
    """Return a manifest, None when there is none.

    Raises: ManifestError, also for a manifest under the key of another one.
    """
    try:
        data = store.get(key)
    except NotFound:
        return None
    try:
        manifest = Manifest.from_json(data)
    except ManifestError as error:
        raise ManifestError(f"{key}: {error}") from error
    except (AttributeError, TypeError, RecursionError) as error:
        raise ManifestError(f"{key} is no manifest of an artifact: {error!r}") from error
    if manifest.key != key:
        raise ManifestError(f"{key} holds the manifest of {manifest.key}: it was copied or changed")
    return manifest


def checkpoint_name(project: str, run_id: str) -> str:
    """Return the name of a run's checkpoints; characters that names may not have are quoted.

    Only the name of an overlong run id depends on the project.
    """
    name = f"checkpoint-{run_id.translate(_QUOTED)}"
    if len(name.encode("utf-8", "surrogatepass")) <= NAME_BYTES_MAX:
        return name
    return f"checkpoint-{run_key(project, run_id).hex()}"
