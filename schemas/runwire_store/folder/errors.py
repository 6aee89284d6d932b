"""What goes wrong in a folder, as the errors of a store."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from runwire_store.folder.files import FULL
from runwire_store.store import NotFound, StoreAway, StoreRefused

__all__ = ["told"]

_REFUSED: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
)


@contextmanager
def told(root: Path, verb: str, key: str = "") -> Iterator[None]:
    """Make errors of the store's files sentences. Raises: NotFound, StoreRefused, StoreAway."""
    what = f"{key} in {root}" if key else str(root)
    try:
        yield
    except FileNotFoundError as error:
        if not key:
            raise
        if verb == "read":
            raise NotFound(f"there is no {what}") from error
        raise StoreAway(f"cannot {verb} {what}: {error.strerror}") from error
    except OSError as error:
        if error.errno in FULL:
            raise StoreRefused(
                f"no room for {what}: {error.strerror}. Free some, or set RUNWIRE_DIR to a "
                "larger disk; what was stored before is untouched"
            ) from error
        if error.errno in _REFUSED:
            raise StoreRefused(
                f"cannot {verb} {what}: {error.strerror}. Give this user the right to it, or "
                "set RUNWIRE_DIR to a folder of its own"
            ) from error
        raise StoreAway(f"cannot {verb} {what}: {error.strerror}; it is tried again") from error
