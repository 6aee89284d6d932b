"""Lists the files of a folder that is to be kept: whole, or refused with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runwire.errors import ArtifactError
from runwire.outbox.capture import Entry

__all__ = ["entries_of"]


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder on the way. `is_linked`: a link led here, and no further one is followed."""

    real: str
    prefix: str
    is_linked: bool = False


def entries_of(
    folder: Path, *, prefix: str = "", leave_out: Path | None = None, immutable: bool = False
) -> Iterator[Entry]:
    """Yield the files below a folder, ordered by name; empty folders leave no trace.

    A link within the folder stands for what it names. `leave_out` is runwire's own data root.
    Raises: ArtifactError for links that leave the folder or go in circles, pipes and devices.
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
        for found in _listed(place.real):
            path = f"{place.prefix}{found.name}"
            if found.is_symlink():
                target = _followed(found, root)
                if str(target) == own:
                    continue
                if target.is_file():
                    yield Entry(path=path, source=target, immutable=immutable)
                    continue
                _check_loop(found, place, target)
                folders.append(_Place(str(target), f"{path}/", is_linked=True))
            elif found.is_dir(follow_symlinks=False):
                if found.path != own:
                    folders.append(_Place(found.path, f"{path}/", place.is_linked))
            else:
                # What is no regular file says so itself when it is opened.
                yield Entry(path=path, source=Path(found.path), immutable=immutable)
        waiting += reversed(folders)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ArtifactError(
            f"folder {folder!r:.300} cannot be read: {error.strerror or error}; make it readable, "
            "or log its files one by one"
        ) from error


def _followed(link: os.DirEntry[str], root: str) -> Path:
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
            f"link {link.path!r:.300} leads to {where}: the files would have no end of names. "
            "Remove the link, or add the folders one by one with Artifact.add_dir"
        )
