"""zstd for state files: optional, streamed, and bounded when it is undone.

benchmarks/checkpoint_save.py measures what it saves on real weights.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from runwire.errors import CheckpointError

__all__ = ["SUFFIX", "compress_file", "decompressed", "zstd_module"]

SUFFIX: Final = ".zst"
# zstd's own default; on weights higher levels cost time and save nothing (see the benchmark).
LEVEL: Final = 3
_PIECE_BYTES: Final = 1024 * 1024
# What a temporary file must leave on its disk for everybody else.
_ROOM_BYTES: Final = 256 * 1024 * 1024


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
    """Return a nameless file with room for `size` bytes, beside `path` or where temporary ones go.

    A disk that checkpoints have filled must not keep a run from loading its latest.
    """
    rooms = {}
    for folder in (path.parent, Path(tempfile.gettempdir())):
        rooms[folder] = max(0, _free_bytes(folder) - _ROOM_BYTES)
        if size <= rooms[folder]:
            with contextlib.suppress(OSError):  # read-only
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
        raise CheckpointError(f"{path} is no intact zstd file: {error}") from error
    if size is None:
        raise CheckpointError(f"{path} does not say how large its content is: not loaded")
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
                # At most one byte more than there should be: enough to see that it is too long.
                room = min(_PIECE_BYTES, size + 1 - written)
                found = unpacker.decompress(piece, max_length=room)
                written += len(found)
                if written > size:
                    raise CheckpointError(
                        f"{path} decompresses to more than the {size} bytes that were saved: it is "
                        "not what its manifest says and was not loaded"
                    )
                out.write(found)
    except zstd.ZstdError as error:
        raise CheckpointError(f"{path} is no intact zstd file: {error}") from error
    if written != size:
        raise CheckpointError(f"{path} decompresses to {written} bytes, {size} were saved")


def _write(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:  # a raw file may take less than it is given
        view = view[file.write(view) :]


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
