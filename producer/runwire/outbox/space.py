"""How much the outbox may hold, over all processes of a data root."""

from __future__ import annotations

import os
from pathlib import Path

from runwire.errors import ArtifactError
from runwire_disk.outbox.request import CAPTURE_LOCK, outbox_dir
from runwire_disk.outbox.requests import FAILED_PREFIX
from runwire_disk.spool.quota import bytes_kept_free

__all__ = ["Space"]


class Space:
    """Counts what waits in the outbox by what each capture has reserved. Threads: safe."""

    def __init__(self, root: Path, *, bytes_max: int, free_ratio_min: float) -> None:
        self._folder, self._bytes_max = outbox_dir(root), bytes_max
        self._free_ratio_min = free_ratio_min
        # A reservation never changes once it can be read.
        self._reserved: dict[str, int] = {}

    def check(self, size: int) -> None:
        """Ask for so many bytes more. Raises: ArtifactError when the outbox has no room."""
        used = self.used()
        if used + size > self._bytes_max:
            raise ArtifactError(
                f"the outbox {self._folder} holds {_mib(used)} that wait for their store, and "
                f"{_mib(size)} more exceed its {_mib(self._bytes_max)}: see `runwire status` for "
                "why they wait, or raise RUNWIRE_OUTBOX_BYTES"
            )

    def used(self) -> int:
        """Return the bytes of what waits; what failed or is being deleted waits for nothing."""
        try:
            found = os.listdir(self._folder)  # noqa: PTH208 - names are all that is needed
        except FileNotFoundError:
            return 0
        names = {name for name in found if not name.startswith((".", FAILED_PREFIX))}
        known = {name: size for name, size in self._reserved.items() if name in names}
        for name in names - known.keys():
            size = self._read(name)
            if size is not None:
                known[name] = size
        self._reserved = known
        return sum(known.values())

    def room(self) -> int:
        """Return what copies may take of the disk now. Raises: OSError."""
        disk = os.statvfs(self._folder)
        wanted = bytes_kept_free(disk, self._free_ratio_min)
        return int(disk.f_bavail * disk.f_frsize - wanted)

    def _read(self, name: str) -> int | None:
        try:
            return int((self._folder / name / CAPTURE_LOCK).read_text("ascii"))
        except (OSError, ValueError):
            return None  # being made, being removed, or none of ours


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
