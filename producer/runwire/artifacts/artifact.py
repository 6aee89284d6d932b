"""What a user puts together before it is logged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from runwire.artifacts.folder import entries_of
from runwire.errors import ArtifactError
from runwire.uploads.capture import Entry

__all__ = ["FILE", "Artifact", "artifact_of"]

FILE: Final = "file"
POLICIES: Final = ("auto", "link", "reference")


@dataclass(frozen=True, slots=True)
class _Part:
    source: Path | bytes
    name: str | None
    policy: str
    is_folder: bool | None


class Artifact:
    """Files under one name; content is read when it is logged, not before.

    `policy` of each file: "auto" keeps it as it is at the call; "link" does so without a copy, for
    files that nobody writes into any more; "reference" records path and digest and moves nothing.
    """

    def __init__(
        self,
        name: str,
        type: str = FILE,  # noqa: A002 - the word that people know
        *,
        metadata: Mapping[str, Any] | None = None,
        aliases: str | Iterable[str] = (),
    ) -> None:
        self.name, self.type = name, type
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.aliases = [aliases] if isinstance(aliases, str) else list(aliases)
        self._parts: list[_Part] = []

    def add_file(
        self, path: str | os.PathLike[str], name: str | None = None, *, policy: str = "auto"
    ) -> Self:
        """Add a file, under its own name or another; a link stands for what it names."""
        return self._add(_Part(Path(path), name, policy, is_folder=False))

    def add_dir(
        self, path: str | os.PathLike[str], name: str | None = None, *, policy: str = "auto"
    ) -> Self:
        """Add the files of a folder, at the top or below `name`."""
        return self._add(_Part(Path(path), name, policy, is_folder=True))

    def add_bytes(self, data: bytes | bytearray | memoryview, name: str) -> Self:
        """Add content that is no file."""
        return self._add(_Part(bytes(data), name, "auto", is_folder=False))

    def add_reference(self, path: str | os.PathLike[str], name: str | None = None) -> Self:
        """Add a file or folder that stays where it is: its path and digest are recorded."""
        return self._add(_Part(_local(path), name, "reference", is_folder=None))

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
    path = Path(content)
    found = Artifact(path.absolute().name if name is None else name)
    return found._add(_Part(path, None, policy, is_folder=None))  # noqa: SLF001 - our own


def _expanded(part: _Part, leave_out: Path | None) -> Iterator[Entry]:
    if part.policy not in POLICIES:
        raise ArtifactError(f"policy={part.policy!r}: use one of {', '.join(POLICIES)}")
    if isinstance(part.source, bytes):
        yield Entry(path=str(part.name), source=part.source)
        return
    # Given by the user, so links are followed; what it leads to must not change underneath.
    try:
        real = Path(os.path.realpath(part.source))
        is_folder = real.is_dir() if part.is_folder is None else part.is_folder
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"{str(part.source)!r:.200} is no path: {reason}") from None
    is_link, is_reference = part.policy == "link", part.policy == "reference"
    if is_folder:
        prefix = f"{part.name}/" if part.name else ""
        found = entries_of(real, prefix=prefix, leave_out=leave_out, immutable=is_link)
        yield from map(_referred, found) if is_reference else found
        return
    path = part.source.absolute().name if part.name is None else part.name
    entry = Entry(path=path, source=real, immutable=is_link)
    yield _referred(entry) if is_reference else entry


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
    parts = urlsplit(text)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ArtifactError(
            f"{text!r:.200} is not on this machine: a reference is a path, or a file:/// address, "
            "that the agent can read to compute its digest"
        )
    return Path(unquote(parts.path))
