"""Artifacts as users assemble them, before they are logged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from runwire.errors import ArtifactError
from runwire.outbox.arguments import Entry, as_alias_list, entries_at, merge_metadata
from runwire_disk.interrupts import reraise_interrupt

__all__ = ["FILE", "Artifact", "artifact_of"]

FILE: Final = "file"
POLICIES: Final = ("auto", "link", "reference")


class _Kind(Enum):
    """The kind of content that a part was added as."""

    CONTENT = "bytes"
    FILE = "a file"
    FOLDER = "a folder"
    EITHER = "a file or folder"


@dataclass(frozen=True, slots=True)
class _Part:
    """One addition as it was given; it is checked when the artifact is logged."""

    kind: _Kind
    source: Any
    name: Any
    policy: Any


class Artifact:
    """Files under one name; content is read and problems are reported when it is logged.

    `policy` of each file: "auto" keeps the content as it is at the call; "link" does so without a
    copy, for files that nobody writes to any more; "reference" records path and digest only.
    """

    def __init__(
        self,
        name: str,
        type: str = FILE,  # noqa: A002 - the word that people know
        *,
        metadata: Mapping[str, Any] | None = None,
        aliases: str | Iterable[str] | None = (),
    ) -> None:
        self.name, self.type = name, type
        self.metadata: dict[str, Any] = _try_checked(merge_metadata, metadata)
        self.aliases: list[str] = _try_checked(as_alias_list, aliases)
        self._parts: list[_Part] = []

    def add_file(
        self, path: str | os.PathLike[str], name: str | None = None, *, policy: str = "auto"
    ) -> Self:
        """Add a file, under its own name or another; a link is followed."""
        return self._add(_Part(_Kind.FILE, path, name, policy))

    def add_dir(
        self, path: str | os.PathLike[str], name: str | None = None, *, policy: str = "auto"
    ) -> Self:
        """Add the files of a folder, at the top or below `name`."""
        return self._add(_Part(_Kind.FOLDER, path, name, policy))

    def add_bytes(self, data: bytes | bytearray | memoryview, name: str) -> Self:
        """Add content in memory, as it is now."""
        return self._add(_Part(_Kind.CONTENT, _copied(data), name, "auto"))

    def add_reference(self, path: str | os.PathLike[str], name: str | None = None) -> Self:
        """Add a file or folder that stays where it is: its path and digest are recorded."""
        return self._add(_Part(_Kind.EITHER, path, name, "reference"))

    def entries(self, leave_out: Path | None = None) -> Iterator[Entry]:
        """Yield all files as they are now. Raises: ArtifactError."""
        for part in self._parts:
            yield from _expand(part, leave_out)

    def _add(self, part: _Part) -> Self:
        self._parts.append(part)
        return self

    def __repr__(self) -> str:
        return f"<runwire.Artifact {self.name!r} of type {self.type!r}, {len(self._parts)} parts>"


def artifact_of(content: Any, name: str | None, *, policy: str) -> Artifact:
    """Return the argument of `log_artifact` as an artifact. Raises: ArtifactError."""
    if isinstance(content, Artifact):
        renamed = Artifact(
            content.name if name is None else name,
            content.type,
            metadata=content.metadata,
            aliases=content.aliases,
        )
        renamed._parts = list(content._parts)  # noqa: SLF001 - our own
        return renamed
    if isinstance(content, (bytes, bytearray, memoryview)):
        if not isinstance(name, str):
            raise ArtifactError("bytes have no name of their own: give name='...'")
        return Artifact(name).add_bytes(content, name.rpartition("/")[2])
    if not isinstance(content, (str, os.PathLike)):
        raise ArtifactError(
            f"log_artifact takes a path, bytes or an Artifact, not {type(content).__name__}"
        )
    artifact = Artifact(Path(content).absolute().name if name is None else name)
    return artifact._add(_Part(_Kind.EITHER, content, None, policy))  # noqa: SLF001 - our own


def _expand(part: _Part, leave_out: Path | None) -> Iterator[Entry]:
    if part.policy not in POLICIES:
        raise ArtifactError(f"policy={part.policy!r}: use one of {', '.join(POLICIES)}")
    if not isinstance(part.name, str) and (part.name is not None or part.kind is _Kind.CONTENT):
        raise ArtifactError(
            f"name={part.name!r:.100} is not a string: give the name of the file in the artifact"
        )
    if part.kind is _Kind.CONTENT:
        if not isinstance(part.source, bytes):
            raise ArtifactError(
                f"add_bytes takes bytes, not {type(part.source).__name__}: text.encode() makes "
                "bytes of a text, add_file takes a path"
            )
        yield Entry(path=str(part.name), source=part.source)
        return
    is_reference = part.policy == "reference"
    entries = entries_at(
        _path(part),
        name=part.name,
        is_folder=None if part.kind is _Kind.EITHER else part.kind is _Kind.FOLDER,
        leave_out=leave_out,
        immutable=part.policy == "link",
    )
    yield from map(_refer, entries) if is_reference else entries


def _path(part: _Part) -> Path:
    if not isinstance(part.source, (str, os.PathLike)):
        raise ArtifactError(
            f"{part.source!r:.200} is not a path: name {part.kind.value} of this machine"
        )
    return _local(part.source) if part.policy == "reference" else Path(part.source)


def _try_checked(check: Callable[[object], Any], given: object) -> Any:
    """Return the checked value, or a wrong one as it is: it is refused when it is logged."""
    try:
        return check(given)
    except Exception as error:
        reraise_interrupt(error)
        return given


def _copied(data: Any) -> Any:
    """Return bytes as they are now; anything else unchanged, to be refused when it is logged."""
    try:
        return data if isinstance(data, bytes) else memoryview(data).tobytes()
    except Exception as error:  # of a user's class, too
        reraise_interrupt(error)
        return data


def _refer(entry: Entry) -> Entry:
    """Return an entry that stays where it is. Raises: ArtifactError for pipes and devices."""
    source = entry.source
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise ArtifactError(
            f"{str(source)!r:.300} is not a file: the agent cannot compute the digest of a "
            "reference to it"
        )
    return replace(entry, by_reference=True)


def _local(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if "://" not in text:
        return Path(text)
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ArtifactError(f"{text!r:.200} is not a URL: {error}") from None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ArtifactError(
            f"{text!r:.200} is not on this machine: a reference is a path, or a file:/// URL, "
            "that the agent can read to compute its digest"
        )
    return Path(unquote(parts.path))
