"""Keys of runs, writers and attempts: hashes of their names.

They are stored in ClickHouse, in the object store and on disks, and compared across versions of
runwire: never change a result.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

DEFAULT_PROJECT: Final = "default"
"""The project of a run that names none."""


def run_key(project: str, run_id: str) -> bytes:
    """Return the 16-byte key of a run.

    Each part is preceded by its length, so ("a", "bc") and ("ab", "c") differ.
    """
    digest = blake2b(digest_size=16)
    for part in (project, run_id):
        data = _utf8(part)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def writer_key(writer: str) -> int:
    """Return the unsigned 64-bit id of a writer."""
    return _u64(writer)


def attempt_key(attempt: str) -> int:
    """Return the unsigned 64-bit id of an attempt."""
    return _u64(attempt)


def _u64(text: str) -> int:
    return int.from_bytes(blake2b(_utf8(text), digest_size=8).digest(), "little")


def _utf8(text: str) -> bytes:
    # A lone surrogate (an undecodable file name) must hash too, and always to the same key.
    return text.encode("utf-8", "surrogatepass")
