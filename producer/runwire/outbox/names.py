"""What people may call artifacts, and what they may say about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from runwire.errors import ArtifactError
from runwire.outbox.capture import Entry
from runwire.params.json_text import TEXT_BYTES_MAX, as_mapping, json_text
from runwire_store.manifest import ManifestError, check_path

__all__ = [
    "checked_aliases",
    "checked_entries",
    "checked_name",
    "checked_type",
    "listed_aliases",
    "merged_metadata",
    "metadata_text",
]

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
        return check_path(name)
    except ManifestError as error:
        raise ArtifactError(f"no name for an artifact: {error}; give another name='...'") from None


def checked_type(kind: object) -> str:
    """Return an artifact's type. Raises: ArtifactError unless it is a word."""
    return _word(kind, "type")


def checked_aliases(aliases: object) -> tuple[str, ...]:
    """Return aliases without repeats; "latest" goes without saying.

    Raises: ArtifactError for what is no word or reads as a version.
    """
    found = dict.fromkeys(_word(alias, "alias") for alias in listed_aliases(aliases))
    for alias in found:
        if _VERSION.fullmatch(alias):
            raise ArtifactError(f"alias {alias!r} reads as a version, which runwire counts itself")
    found.pop(LATEST, None)
    return tuple(found)


def listed_aliases(aliases: object) -> list[Any]:
    """Return one alias or several as a list; None means none. Raises: ArtifactError."""
    if aliases is None or isinstance(aliases, str):
        return [] if aliases is None else [aliases]
    if isinstance(aliases, (bytes, Mapping)) or not isinstance(aliases, Iterable):
        raise ArtifactError(
            f"aliases={aliases!r:.100} is no list: give a word, or a list of words such as ['best']"
        )
    return list(aliases)


def merged_metadata(*said: object) -> dict[str, Any]:
    """Return what was said, the last word for each name; None says nothing.

    Raises: ArtifactError for what has no names.
    """
    found: dict[str, Any] = {}
    for each in said:
        fields = {} if each is None else as_mapping(each)
        if fields is None:
            raise ArtifactError(
                f"metadata is a {type(each).__name__}: give a mapping such as {{'accuracy': 0.9}}"
            )
        found |= fields
    return found


def metadata_text(metadata: Mapping[str, Any] | None) -> str | None:
    """Return metadata as JSON. Raises: ArtifactError for no mapping, or for too much."""
    named = merged_metadata(metadata)
    if not named:
        return None
    text = json_text(named)
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
            path = check_path(entry.path)
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
