"""The file of a checkpoint: written by torch, read by torch's loader that executes nothing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from runwire.checkpoints.compress import SUFFIX, compress_file, decompressed
from runwire.errors import CheckpointError
from runwire_disk.files import sync_file
from runwire_store.manifest import FileEntry

__all__ = [
    "FORMAT",
    "STATE_FILE",
    "digest_of",
    "import_torch",
    "read_state",
    "unwritten",
    "write_state",
]

STATE_FILE: Final = "state.pt"
# Under "runwire" in the saved mapping: marks it as ours, and says how to read it.
FORMAT: Final = 1
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# What torch was about to write did not fit: a tensor, or the buffer of a file.
_NEARLY_FULL_BYTES: Final = 16 * 1024 * 1024


def import_torch() -> Any:
    """Return torch. Raises: CheckpointError where it is not installed."""
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            "saving and loading states needs torch, which is not installed here. Checkpoints of "
            "other frameworks: write the file and pass it to log_checkpoint(path, step=...)"
        ) from None
    return torch


def write_state(folder: Path, state: Mapping[str, Any], *, compress: bool) -> tuple[FileEntry, int]:
    """Write and sync the state; return what the manifest says of it, and its plain size.

    Raises: CheckpointError, OSError. Blocks: writes it, and reads it once.
    """
    torch = import_torch()
    path = folder / STATE_FILE
    try:
        torch.save({"runwire": FORMAT, **state}, path)
    except RuntimeError as error:  # torch's own words for a failed write
        raise CheckpointError(unwritten(folder.parent, error)) from error
    raw_bytes = path.stat().st_size
    if compress:
        packed = path.with_name(path.name + SUFFIX)
        compress_file(path, packed)
        path.unlink()
        path = packed
    sync_file(path)
    entry = FileEntry(path=path.name, size=path.stat().st_size, sha256=digest_of(path))
    return entry, raw_bytes


def read_state(path: Path, *, raw_bytes: int, map_location: Any = None) -> Any:
    """Return what a state file holds; nothing in it is ever executed.

    Raises: CheckpointError for damage, and for a pickle that asks for more than tensors.
    """
    import_torch()
    where = "cpu" if map_location is None else map_location
    if path.suffix != SUFFIX:
        with path.open("rb") as file:
            return _loaded(file, path, where)
    with decompressed(path, raw_bytes) as file:
        return _loaded(file, path, where)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex. Raises: OSError."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _loaded(file: IO[bytes], path: Path, map_location: Any) -> Any:
    torch = import_torch()
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        why = str(error).replace("\x1b[1m", "").replace("\x1b[0m", "")
        _, _, blamed = why.partition("WeightsUnpickler error: ")
        lines = (blamed or why).splitlines() or ["it is damaged"]
        raise CheckpointError(
            f"{path} was not loaded: it is a pickle that asks for more than tensors, numbers and "
            f"texts, which means executing code ({lines[0][:200]}). If it "
            "is yours, save its state_dict() instead of objects"
        ) from error
    except Exception as error:  # a pickle that was damaged fails with any of Python's errors
        why = str(error) or type(error).__name__
        raise CheckpointError(f"{path} is no file that torch can load: {why}") from error


def unwritten(folder: Path, error: Exception) -> str:
    """Say why a checkpoint could not be written below `folder`, and what to do."""
    is_full = isinstance(error, OSError) and error.errno in _FULL
    with contextlib.suppress(OSError):
        disk = os.statvfs(folder)
        # torch does not say why a write failed.
        torch_failed = isinstance(error, RuntimeError)
        is_full = is_full or (torch_failed and disk.f_bavail * disk.f_frsize < _NEARLY_FULL_BYTES)
    if is_full:
        return (
            f"the disk of {folder} is full: this checkpoint was not saved and the ones before it "
            "are as they were. Free space there, set RUNWIRE_CHECKPOINT_KEEP_LAST, or "
            "RUNWIRE_CHECKPOINT_DIR to another disk"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return f"a checkpoint could not be written below {folder}: {reason}"
