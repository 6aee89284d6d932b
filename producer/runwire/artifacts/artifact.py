"""What a user puts together before it is logged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from runwire.artifacts.folder import entries_of
from runwire.errors import ArtifactError
from runwire.outbox.capture import Entry
from runwire.outbox.names import listed_aliases, merged_metadata

__all__ = ["FILE", "Artifact", "artifact_of"]

FILE: Final = "file"
POLICIES: Final = ("auto", "link", "reference")


class _Kind(Enum):
    """What a part was added as."""

    CONTENT = "bytes"
    FILE = "a file"
    FOLDER = "a folder"
    EITHER = "a file or folder"


@dataclass(frozen=True, slots=True)
class _Part:
    """What was added, as it was given: right or wrong is said where it is logged."""

    kind: _Kind
    source: Any
    name: Any
    policy: Any


class Artifact:
    """Files under one name; content is read, and what is wrong is told, when it is logged.

    `policy` of each file: "auto" keeps it as it is at the call; "link" does so without a copy, for
    files that nobody writes into any more; "reference" records path and digest and moves nothing.
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
        self.metadata: dict[str, Any] = _settled(merged_metadata, metadata)
        self.aliases: list[str] = _settled(listed_aliases, aliases)
        self._parts: list[_Part] = []

    def add_file(
        self, path: str | os.PathLike[str], name: str | None = None, *, policy: str = "auto"
    ) -> Self:
        """Add a file, under its own name or another; a link stands for what it names."""
        return self._add(_Part(_Kind.FILE, path, name, policy))

    def add_dir(
        self, path: str | os.PathLike[str], name: str | None = None, *, policy: str = "auto"
    ) -> Self:
        """Add the files of a folder, at the top or below `name`."""
        return self._add(_Part(_Kind.FOLDER, path, name, policy))

    def add_bytes(self, data: bytes | bytearray | memoryview, name: str) -> Self:
        """Add content that is no file, as it is now."""
        return self._add(_Part(_Kind.CONTENT, _frozen(data), name, "auto"))

    def add_reference(self, path: str | os.PathLike[str], name: str | None = None) -> Self:
        """Add a file or folder that stays where it is: its path and digest are recorded."""
        return self._add(_Part(_Kind.EITHER, path, name, "reference"))

    def entries(self, leave_out: Path | None = None) -> Iterator[Entry]:
        """Yield all files as they are now. Raises: ArtifactError."""
        for part in self._parts:
            yield from _expanded(part, leave_out)

    def _add(self, part: _Part) -> Self:
        self._parts.append(part)
        return self

    def __repr__(self) -> str:
        return f"<runwire.Artifact {self.name!r} of type {self.type!r}, {len(self._parts)} parts>"


def artifact_of(content: Any, name: str | None, *, policy: str) -> Artifact:
    """Return what `log_artifact` was given as an artifact. Raises: ArtifactError."""
    if isinstance(content, Artifact):
        found = Artifact(
            content.name if name is None else name,
            content.type,
            metadata=content.metadata,
            aliases=content.aliases,
        )
        found._parts = list(content._parts)  # noqa: SLF001 - our own
        return found
    if isinstance(content, (bytes, bytearray, memoryview)):
        if not isinstance(name, str):
            raise ArtifactError("bytes have no name of their own: give name='...'")
        return Artifact(name).add_bytes(content, name.rpartition("/")[2])
    if not isinstance(content, (str, os.PathLike)):
        raise ArtifactError(
            f"log_artifact takes a path, bytes or an Artifact, not {type(content).__name__}"
        )
    found = Artifact(Path(content).absolute().name if name is None else name)
    return found._add(_Part(_Kind.EITHER, content, None, policy))  # noqa: SLF001 - our own


def _expanded(part: _Part, leave_out: Path | None) -> Iterator[Entry]:
    if part.policy not in POLICIES:
        raise ArtifactError(f"policy={part.policy!r}: use one of {', '.join(POLICIES)}")
    if not isinstance(part.name, str) and (part.name is not None or part.kind is _Kind.CONTENT):
        raise ArtifactError(f"name={part.name!r:.100} is no text: say how the file is called in it")
    if part.kind is _Kind.CONTENT:
        if not isinstance(part.source, bytes):
            raise ArtifactError(
                f"add_bytes takes bytes, not {type(part.source).__name__}: text.encode() makes "
                "bytes of a text, add_file takes a path"
            )
        yield Entry(path=str(part.name), source=part.source)
        return
    given, real, is_folder = _found(part)
    is_link, is_reference = part.policy == "link", part.policy == "reference"
    if is_folder:
        prefix = f"{part.name}/" if part.name else ""
        found = entries_of(real, prefix=prefix, leave_out=leave_out, immutable=is_link)
        yield from map(_referred, found) if is_reference else found
        return
    path = given.absolute().name if part.name is None else part.name
    entry = Entry(path=path, source=real, immutable=is_link)
    yield _referred(entry) if is_reference else entry


def _found(part: _Part) -> tuple[Path, Path, bool]:
    """Return a path as given, what it leads to, and whether that is taken as a folder."""
    given = _path(part)
    # Given by the user, so links are followed; what it leads to must not change underneath.
    try:
        real = Path(os.path.realpath(given))
        is_folder = real.is_dir() if part.kind is _Kind.EITHER else part.kind is _Kind.FOLDER
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"{str(given)!r:.200} is no path: {reason}") from None
    return given, real, is_folder


def _path(part: _Part) -> Path:
    if not isinstance(part.source, (str, os.PathLike)):
        raise ArtifactError(
            f"{part.source!r:.200} is no path: name {part.kind.value} of this machine"
        )
    return _local(part.source) if part.policy == "reference" else Path(part.source)


def _settled(checked: Callable[[object], Any], given: object) -> Any:
    """Return what was given in its own form; what is wrong stays, and is told when it is logged."""
    try:
        return checked(given)
    except Exception:
        return given


def _frozen(data: Any) -> Any:
    """Return bytes as they are now; what is none stays as it is."""
    try:
        return data if isinstance(data, bytes) else memoryview(data).tobytes()
    except (TypeError, ValueError, BufferError):
        return data


def _referred(entry: Entry) -> Entry:
    """Return an entry that stays where it is. Raises: ArtifactError for pipes and devices."""
    source = entry.source
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise ArtifactError(
            f"{str(source)!r:.300} is no file: a reference needs content of which the agent can "
            "compute the digest"
        )
    return replace(entry, by_reference=True)


def _local(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if "://" not in text:
        return Path(text)
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ArtifactError(f"{text!r:.200} is no address: {error}") from None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ArtifactError(
            f"{text!r:.200} is not on this machine: a reference is a path, or a file:/// address, "
            "that the agent can read to compute its digest"
        )
    return Path(unquote(parts.path))
