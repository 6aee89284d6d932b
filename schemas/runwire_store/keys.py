"""Which keys every store takes: what `layout` builds, and nothing that could leave a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from runwire_store.store import PART_BYTES_MIN

__all__ = ["check_parts", "checked_key", "checked_prefix"]

# The longest key of S3; a part of it is a file name in a folder, hence no leading dot.
KEY_BYTES_MAX: Final = 1024
_NAME = r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*"
_KEY = re.compile(f"{_NAME}(/{_NAME})*")
_PREFIX = re.compile(f"({_NAME}/)*({_NAME})?")


def checked_key(key: str) -> str:
    """Return the key. Raises: ValueError unless it is one that `layout` could have built."""
    if len(key) > KEY_BYTES_MAX or not _KEY.fullmatch(key):
        raise ValueError(f"{key[:80]!r} is no key of a store: build keys with `layout`")
    return key


def checked_prefix(prefix: str) -> str:
    """Return what keys may start with. Raises: ValueError for what no key starts with."""
    if len(prefix) > KEY_BYTES_MAX or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix[:80]!r} is no start of a key: build it with `layout`")
    return prefix


def check_parts(sizes: Sequence[int]) -> None:
    """Raises: ValueError for parts that S3 would not join, in whatever store they lie."""
    if not sizes:
        raise ValueError("there are no parts to join")
    for number, size in enumerate(sizes[:-1]):
        if size < PART_BYTES_MIN:
            raise ValueError(f"part {number} has {size} bytes, fewer than {PART_BYTES_MIN}")
