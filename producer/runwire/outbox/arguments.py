"""Arguments of the calls that keep files: name, type, aliases, metadata and entries, checked."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runwire.errors import ArtifactError
from runwire.safe_text import TEXT_BYTES_MAX, as_mapping, json_text
from runwire_store.manifest import ManifestError, check_path

__all__ = [
    "Entry",
    "as_alias_list",
    "check_aliases",
    "check_entries",
    "check_name",
    "check_type",
    "entries_at",
    "merge_metadata",
    "metadata_text",
]

# A name has to fit a line that people read; also the limit of one file name on disk.
NAME_CHARS_MAX: Final = 255
WORD_CHARS_MAX: Final = 64
ALIASES_MAX: Final = 1000
LATEST: Final = "latest"
_WORD = re.compile(r"[^\s:/\\\x00-\x1f\x7f\ud800-\udfff]+")
_VERSION = re.compile(r"v[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of an artifact: a file to capture, or bytes.

    `immutable` promises that nobody writes to the file any more: it is hard-linked at no cost.
    `by_reference` moves no content: the file has to stay at `source`, or at `final_path`, to which
    it is about to be renamed.
    """

    path: str
    source: Path | bytes
    immutable: bool = False
    sha256: str = ""
    by_reference: bool = False
    final_path: Path | None = None


def check_name(name: object) -> str:
    """Return an artifact's name. Raises: ArtifactError unless "name:alias" can refer to it."""
    if not isinstance(name, str):
        raise ArtifactError(f"name={name!r:.100} is not a string: give name='...'")
    if len(name) > NAME_CHARS_MAX:
        raise ArtifactError(
            f"{name[:60]!r}… has {len(name)} characters: a name has at most {NAME_CHARS_MAX}"
        )
    if ":" in name or name != name.strip():
        raise ArtifactError(f"{name!r} has a ':' or blanks around it: give another name='...'")
    try:
        return check_path(name)
    except ManifestError as error:
        raise ArtifactError(
            f"not a name for an artifact: {error}; give another name='...'"
        ) from None


def check_type(kind: object) -> str:
    """Return an artifact's type. Raises: ArtifactError unless it is a word."""
    return _check_word(kind, "type")


def check_aliases(aliases: object) -> tuple[str, ...]:
    """Return aliases without repeats and without "latest", which every artifact has.

    Raises: ArtifactError for anything but words, and for a word that reads as a version.
    """
    words = dict.fromkeys(_check_word(alias, "alias") for alias in as_alias_list(aliases))
    for alias in words:
        if _VERSION.fullmatch(alias):
            raise ArtifactError(f"alias {alias!r} reads as a version, which runwire counts itself")
    words.pop(LATEST, None)
    return tuple(words)


def as_alias_list(aliases: object) -> list[Any]:
    """Return one alias or several as a list; None gives an empty one. Raises: ArtifactError."""
    if aliases is None or isinstance(aliases, str):
        return [] if aliases is None else [aliases]
    if isinstance(aliases, (bytes, Mapping)) or not isinstance(aliases, Iterable):
        raise ArtifactError(
            f"aliases={aliases!r:.100} is not a list: give a word, or a list of words such as "
            "['best']"
        )
    return list(itertools.islice(aliases, ALIASES_MAX))  # an iterator may be endless


def merge_metadata(*sources: object) -> dict[str, Any]:
    """Return the fields of all sources; of one name the last value wins, and None adds nothing.

    Raises: ArtifactError for a source without named fields.
    """
    merged: dict[str, Any] = {}
    for source in sources:
        fields = {} if source is None else as_mapping(source)
        if fields is None:
            raise ArtifactError(
                f"metadata is a {type(source).__name__}: give a mapping such as {{'accuracy': 0.9}}"
            )
        merged |= fields
    return merged


def metadata_text(metadata: Mapping[str, Any] | None) -> str | None:
    """Return metadata as JSON. Raises: ArtifactError for no mapping, or for too much."""
    named = merge_metadata(metadata)
    if not named:
        return None
    text = json_text(named)
    if not text.startswith("{"):
        raise ArtifactError(
            f"metadata has more than {TEXT_BYTES_MAX // 1024} KiB, or cannot be written as text: "
            "put it into a file of the artifact"
        )
    return text


def check_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries. Raises: ArtifactError for none, bad paths, or paths that collide."""
    checked = list(entries)
    if not checked:
        raise ArtifactError("there is no file in it: an artifact needs content")
    paths: set[str] = set()
    folders: set[str] = set()
    for entry in checked:
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
    return checked


def entries_at(
    path: Path,
    *,
    name: str | None = None,
    is_folder: bool | None = None,
    leave_out: Path | None = None,
    immutable: bool = False,
) -> Iterator[Entry]:
    """Yield a file, or the files below a folder, under `name` or the file's own name.

    `is_folder` None takes either. `leave_out` is runwire's own data root.
    Raises: ArtifactError for a path that cannot be followed, and as `_entries_below`.
    """
    # The user gave this path, so its links are followed, once: later changes have no effect.
    try:
        real = Path(os.path.realpath(path))
        is_folder = real.is_dir() if is_folder is None else is_folder
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"{str(path)!r:.200} is not a path: {reason}") from None
    if is_folder:
        prefix = f"{name}/" if name else ""
        yield from _entries_below(real, prefix=prefix, leave_out=leave_out, immutable=immutable)
    else:
        shown = path.absolute().name if name is None else name
        yield Entry(path=shown, source=real, immutable=immutable)


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder still to be listed; below one reached by a link no further link is followed."""

    real: str
    prefix: str
    is_linked: bool = False


def _entries_below(
    folder: Path, *, prefix: str, leave_out: Path | None, immutable: bool
) -> Iterator[Entry]:
    """Yield the files below a folder, ordered by name; empty folders leave no trace.

    A link within the folder yields the file that it points to.
    Raises: ArtifactError for links that leave the folder or form a cycle, pipes and devices.
    """
    root = os.path.realpath(folder)
    own = os.path.realpath(leave_out) if leave_out is not None else ""
    if root == own:
        raise ArtifactError(
            f"{root!r:.300} is the folder of runwire itself (RUNWIRE_DIR): name the folder or file "
            "in it that is yours"
        )
    waiting = [_Place(root, prefix)]
    while waiting:
        place = waiting.pop()
        folders: list[_Place] = []
        for item in _scan(place.real):
            path = f"{place.prefix}{item.name}"
            if item.is_symlink():
                target = _follow(item, root)
                if str(target) == own:
                    continue
                if target.is_file():
                    yield Entry(path=path, source=target, immutable=immutable)
                    continue
                _check_loop(item, place, target)
                folders.append(_Place(str(target), f"{path}/", is_linked=True))
            elif item.is_dir(follow_symlinks=False):
                if item.path != own:
                    folders.append(_Place(item.path, f"{path}/", place.is_linked))
            else:
                # Anything but a regular file is refused when it is opened.
                yield Entry(path=path, source=Path(item.path), immutable=immutable)
        waiting += reversed(folders)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return sorted(items, key=lambda item: item.name)
    except OSError as error:
        raise ArtifactError(
            f"folder {folder!r:.300} cannot be read: {error.strerror or error}; make it readable, "
            "or log its files one by one"
        ) from error


def _follow(link: os.DirEntry[str], root: str) -> Path:
    try:
        target = os.path.realpath(link.path, strict=True)
    except OSError as error:
        raise ArtifactError(
            f"link {link.path!r:.300} leads nowhere ({error.strerror or error}): remove it first"
        ) from error
    if target != root and not target.startswith(root.rstrip("/") + "/"):
        raise ArtifactError(
            f"link {link.path!r:.300} leads out of the folder, to {target!r:.300}: replace it by "
            "the file, or name what you want with Artifact.add_file"
        )
    return Path(target)


def _check_loop(link: os.DirEntry[str], place: _Place, target: Path) -> None:
    is_above = f"{place.real}/".startswith(f"{target}/")
    if is_above or place.is_linked:
        where = "a folder that contains it" if is_above else "another folder, from a linked one"
        raise ArtifactError(
            f"link {link.path!r:.300} leads to {where}: following it would never end. Remove the "
            "link, or add the folders one by one with Artifact.add_dir"
        )


def _check_word(text: object, what: str) -> str:
    if isinstance(text, str) and len(text) <= WORD_CHARS_MAX and _WORD.fullmatch(text):
        return text
    raise ArtifactError(
        f"{what}={text!r:.100}: give a word of at most {WORD_CHARS_MAX} characters without blanks, "
        "':', '/' and '\\'"
    )
