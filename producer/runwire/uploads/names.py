"""What people may call artifacts, and what they may say about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from runwire.errors import ArtifactError
from runwire.json_text import TEXT_BYTES_MAX, as_mapping, json_text
from runwire.uploads.capture import Entry
from runwire_schemas.objects.manifest import ManifestError, checked_path

__all__ = ["checked_aliases", "checked_entries", "checked_name", "checked_type", "metadata_text"]

# A name has to fit a line that people read; also the limit of one file name on disk.
NAME_CHARS_MAX: Final = 255
WORD_CHARS_MAX: Final = 64
LATEST: Final = "latest"
_WORD = re.compile(r"[^\s:/\\\x00-\x1f\x7f\ud800-\udfff]+")
_VERSION = re.compile(r"v[0-9]+")


def checked_name(name: object) -> str:
    """Return an artifact's name. Raises: ArtifactError unless "name:alias" can mean it."""
    if not isinstance(name, str):
        raise ArtifactError(f"name={name!r:.100} is no text: give name='...'")
    if len(name) > NAME_CHARS_MAX:
        raise ArtifactError(
            f"{name[:60]!r}… has {len(name)} characters: a name has at most {NAME_CHARS_MAX}"
        )
    if ":" in name or name != name.strip():
        raise ArtifactError(f"{name!r} has a ':' or blanks around it: give another name='...'")
    try:
        return checked_path(name)
    except ManifestError as error:
        raise ArtifactError(f"no name for an artifact: {error}; give another name='...'") from None


def checked_type(kind: object) -> str:
    """Return an artifact's type. Raises: ArtifactError unless it is a word."""
    return _word(kind, "type")


def checked_aliases(aliases: str | Iterable[str]) -> tuple[str, ...]:
    """Return aliases without repeats; "latest" goes without saying.

    Raises: ArtifactError for what is no word or reads as a version.
    """
    found = dict.fromkeys([aliases] if isinstance(aliases, str) else aliases)
    for alias in found:
        if _VERSION.fullmatch(_word(alias, "alias")):
            raise ArtifactError(f"alias {alias!r} reads as a version, which runwire counts itself")
    found.pop(LATEST, None)
    return tuple(found)


def metadata_text(metadata: Mapping[str, Any] | None) -> str | None:
    """Return metadata as JSON. Raises: ArtifactError for no mapping, or for too much."""
    if not metadata:
        return None
    if as_mapping(metadata) is None:
        raise ArtifactError(f"metadata is a {type(metadata).__name__}: give a mapping of names")
    text = json_text(metadata)
    if not text.startswith("{"):
        raise ArtifactError(
            f"metadata has more than {TEXT_BYTES_MAX // 1024} KiB, or is no text: put it into a "
            "file of the artifact"
        )
    return text


def checked_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries. Raises: ArtifactError for none, bad paths, or paths that collide."""
    found = list(entries)
    if not found:
        raise ArtifactError("there is no file in it: an artifact without content says nothing")
    paths: set[str] = set()
    folders: set[str] = set()
    for entry in found:
        try:
            path = checked_path(entry.path)
        except ManifestError as error:
            raise ArtifactError(str(error)) from None
        if path in paths:
            raise ArtifactError(f"{path!r} is in it twice: give one of them another name")
        paths.add(path)
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in folders:
                break
            folders.add(path)
    if clash := next(iter(paths & folders), None):
        raise ArtifactError(f"{clash!r} is a file and a folder in it: rename one of them")
    return found


def _word(text: object, what: str) -> str:
    if isinstance(text, str) and len(text) <= WORD_CHARS_MAX and _WORD.fullmatch(text):
        return text
    raise ArtifactError(
        f"{what}={text!r:.100}: give a word of at most {WORD_CHARS_MAX} characters without blanks, "
        "':', '/' and '\\'"
    )
