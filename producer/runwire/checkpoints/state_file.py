"""The state file of a checkpoint: written by torch, read by torch's loader that executes nothing.

Optionally compressed by zstd, streamed, and bounded when it is decompressed.
benchmarks/checkpoint_save.py measures what that saves on real weights.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from runwire.errors import CheckpointError
from runwire_disk.files import descriptor_shortage, sync_file
from runwire_disk.interrupts import suppressed
from runwire_store.manifest import FileEntry

__all__ = [
    "FORMAT",
    "LEFT_OUT",
    "PACKED_STATE_FILE",
    "STATE_FILE",
    "compress_file",
    "decompressed",
    "describe_left_out",
    "digest_of",
    "explain_failure",
    "import_torch",
    "read_state",
    "write_state",
    "zstd_module",
]

STATE_FILE: Final = "state.pt"
SUFFIX: Final = ".zst"
PACKED_STATE_FILE: Final = STATE_FILE + SUFFIX
# Under "runwire" in the saved mapping: marks it as ours and gives its format.
FORMAT: Final = 1
# Under this key: what could not be stored, by its place. Only in a checkpoint that lacks something.
LEFT_OUT: Final = "left_out"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# With less space left than this, a failed write of torch was a full disk.
_NEARLY_FULL_BYTES: Final = 16 * 1024 * 1024
# zstd's own default; on weights higher levels cost time and save nothing (see the benchmark).
LEVEL: Final = 3
_PIECE_BYTES: Final = 1024 * 1024
_PLACES_MAX: Final = 10  # in a sentence
# Space that a temporary file leaves free on its disk for everything else.
_ROOM_BYTES: Final = 256 * 1024 * 1024


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
    """Write and sync the state; return its manifest entry and its uncompressed size.

    Raises: CheckpointError, OSError. Blocks: writes it, and reads it once.
    """
    torch = import_torch()
    path = folder / STATE_FILE
    try:
        torch.save({"runwire": FORMAT, **state}, path)
    except RuntimeError as error:  # torch's error for a failed write
        raise CheckpointError(explain_failure(folder.parent, error)) from error
    raw_bytes = path.stat().st_size
    if compress:
        packed = folder / PACKED_STATE_FILE
        compress_file(path, packed)
        path.unlink()
        path = packed
    sync_file(path)
    entry = FileEntry(path=path.name, size=path.stat().st_size, sha256=digest_of(path))
    return entry, raw_bytes


def read_state(path: Path, *, raw_bytes: int, map_location: Any = None) -> Any:
    """Return the content of a state file; nothing in it is ever executed.

    Raises: CheckpointError for damage, and for a pickle that asks for more than tensors.
    """
    import_torch()
    where = "cpu" if map_location is None else map_location
    if path.suffix != SUFFIX:
        with path.open("rb") as file:
            return _load_safely(file, path, where)
    with decompressed(path, raw_bytes) as file:
        return _load_safely(file, path, where)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex. Raises: OSError."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_safely(file: IO[bytes], path: Path, map_location: Any) -> Any:
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
    except Exception as error:  # a damaged pickle can fail with any of Python's errors
        why = str(error) or type(error).__name__
        raise CheckpointError(f"{path} is not a file that torch can load: {why}") from error


def describe_left_out(step: int, left_out: Mapping[str, str]) -> str:
    """Return a sentence about the values that a checkpoint lacks."""
    parts = [f"{place} ({what})" for place, what in islice(left_out.items(), _PLACES_MAX)]
    more = len(left_out) - len(parts)
    last = f" and {more} more values" if more else ""
    return (
        f"checkpoint {step} was saved without {', '.join(parts)}{last}: it holds only tensors, "
        "numbers, texts and containers"
    )


def explain_failure(folder: Path, error: Exception) -> str:
    """Return why a checkpoint could not be written below `folder`, and what to do."""
    # torch does not say why a write failed.
    shortage = descriptor_shortage(error if isinstance(error, OSError) else None)
    if shortage:
        return f"a checkpoint could not be written below {folder}: {shortage}"
    is_full = isinstance(error, OSError) and error.errno in _FULL
    with suppressed(OSError):
        disk = os.statvfs(folder)
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


def zstd_module() -> Any:
    """Return Python's zstd module. Raises: CheckpointError where there is none."""
    for name in ("compression.zstd", "backports.zstd"):  # the first from Python 3.14 on
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise CheckpointError(
        "compressed checkpoints need a zstd module: pip install 'runwire[zstd]', or set "
        "RUNWIRE_CHECKPOINT_COMPRESS=off"
    )


def compress_file(source: Path, target: Path) -> None:
    """Write `source` compressed, with a checksum and its size in the header. Raises: OSError."""
    zstd = zstd_module()
    option = zstd.CompressionParameter
    options = {option.compression_level: LEVEL, option.checksum_flag: 1}
    with source.open("rb", buffering=0) as raw, target.open("xb", buffering=0) as packed:
        compressor = zstd.ZstdCompressor(options=options)
        compressor.set_pledged_input_size(os.fstat(raw.fileno()).st_size)
        while piece := raw.read(_PIECE_BYTES):
            _write(packed, compressor.compress(piece))
        _write(packed, compressor.flush())


@contextlib.contextmanager
def decompressed(path: Path, size: int) -> Iterator[IO[bytes]]:
    """Yield the content of a compressed file, of exactly `size` bytes, as a nameless file.

    A negative `size` means the one in the file's header. Raises: CheckpointError for other sizes,
    damage, or more than the disk has room for: nothing is written beyond `size`, whatever the file
    claims. Blocks: reads the file once.
    """
    size = _declared(path) if size < 0 else size
    with _scratch(path, size) as out:
        _unpack(path, out, size)
        out.seek(0)
        yield out


def _scratch(path: Path, size: int) -> IO[bytes]:
    """Return a nameless file with room for `size` bytes, beside `path` or in the temporary folder.

    A disk that checkpoints have filled must not keep a run from loading its latest.
    """
    rooms = {}
    for folder in (path.parent, Path(tempfile.gettempdir())):
        rooms[folder] = max(0, _free_bytes(folder) - _ROOM_BYTES)
        if size <= rooms[folder]:
            with suppressed(OSError):  # read-only
                return tempfile.TemporaryFile(dir=folder)
    had = " and ".join(f"{room / 2**20:,.0f} MiB in {folder}" for folder, room in rooms.items())
    raise CheckpointError(
        f"{path} has {size / 2**20:,.0f} MiB when decompressed and there is room for {had}: free "
        "space there, or let TMPDIR name a folder that has it and can be written"
    )


def _declared(path: Path) -> int:
    zstd = zstd_module()
    try:
        with path.open("rb") as packed:
            size: int | None = zstd.get_frame_info(packed.read(32)).decompressed_size
    except zstd.ZstdError as error:
        raise CheckpointError(f"{path} is not an intact zstd file: {error}") from error
    if size is None:
        raise CheckpointError(f"{path} does not declare the size of its content: not loaded")
    return size


def _unpack(path: Path, out: IO[bytes], size: int) -> None:
    zstd = zstd_module()
    unpacker, written = zstd.ZstdDecompressor(), 0
    try:
        with path.open("rb", buffering=0) as packed:
            while not unpacker.eof:
                piece = packed.read(_PIECE_BYTES) if unpacker.needs_input else b""
                if not piece and unpacker.needs_input:
                    raise CheckpointError(f"{path} ends in the middle: it was cut short")
                # At most one byte more than expected: enough to notice that it is too long.
                room = min(_PIECE_BYTES, size + 1 - written)
                data = unpacker.decompress(piece, max_length=room)
                written += len(data)
                if written > size:
                    raise CheckpointError(
                        f"{path} decompresses to more than the {size} bytes that were saved: it "
                        "does not match its manifest and was not loaded"
                    )
                out.write(data)
    except zstd.ZstdError as error:
        raise CheckpointError(f"{path} is not an intact zstd file: {error}") from error
    if written != size:
        raise CheckpointError(f"{path} decompresses to {written} bytes, {size} were saved")


def _write(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:  # a raw file may take less than it is given
        view = view[file.write(view) :]


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
