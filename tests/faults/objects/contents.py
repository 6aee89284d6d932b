"""Contents that differ in every call and cost little: one random block, and a head of its own."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

# Not a multiple of anything: pieces, parts and blocks all end with a short one.
LARGE_BYTES = 200_000_003
HEAD_BYTES = 64
_BLOCK_BYTES = 1024 * 1024


def make_base(path: Path, seed: int) -> Path:
    """Write LARGE_BYTES of noise, from which every content is cut."""
    path.write_bytes(random.Random(f"{seed} noise").randbytes(LARGE_BYTES))
    return path


def write(path: Path, base: Path, word: str, size: int) -> tuple[str, int]:
    """Write the content of a word; return its SHA-256 and size. The same word, the same bytes."""
    head = hashlib.sha512(word.encode()).digest()[: min(HEAD_BYTES, size)]
    digest = hashlib.sha256(head)
    left = size - len(head)
    with base.open("rb") as source, path.open("wb") as target:
        target.write(head)
        source.seek(HEAD_BYTES)
        while left:
            block = source.read(min(_BLOCK_BYTES, left))
            digest.update(block)
            target.write(block)
            left -= len(block)
    return digest.hexdigest(), size
