"""Protocol of a spool folder in the hands of its one reader, as a set of folders needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from runwire_disk.spool.format import Meta

__all__ = ["HeldFolder"]


class HeldFolder(Protocol):
    """One folder in the hands of its one reader: a `FolderReader`, or an object that has one."""

    @property
    def folder(self) -> Path:
        """Path of the folder."""
        ...

    @property
    def meta(self) -> Meta:
        """Identity of the writer."""
        ...

    @property
    def drained(self) -> bool:
        """Whether the writer is gone and everything it committed is delivered."""
        ...

    @property
    def at_rest(self) -> bool:
        """Whether everything that was read is delivered, so that it may be closed."""
        ...

    @property
    def is_short(self) -> bool:
        """Whether the last look had no file descriptor left for a segment."""
        ...

    def has_news(self) -> bool:
        """Tell cheaply whether a visit would find something. Raises: FileNotFoundError."""
        ...

    def save(self) -> None:
        """Write the committed position beside the segments. Raises: OSError."""
        ...

    def remove(self) -> None:
        """Delete the folder and release it."""
        ...

    def close(self) -> None:
        """Release the folder."""
        ...
