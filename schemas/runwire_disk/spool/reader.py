"""Reader of one spool folder, and the list of the folders there are.

Exactly one reader per folder, the holder of reader.lock; it alone advances and deletes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path

from runwire_disk.files import NO_DESCRIPTORS, is_locked, try_lock
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import (
    FORMAT_VERSION,
    META_FILE,
    READER_LOCK,
    SERIES,
    WRITER_LOCK,
    Cursor,
    Meta,
    SpoolBusy,
    SpoolError,
    read_cursor,
    write_cursor,
)
from runwire_disk.spool.group_sync import sync_files
from runwire_disk.spool.progress import progress
from runwire_disk.spool.run_notes import keep_last_step
from runwire_disk.spool.series_reader import SeriesReader
from runwire_schemas.connections.secret import read_facts

# Two files made within one tick of the file system's clock leave the folder's time as it was.
FRESH_NS = 50_000_000
_META_FIELDS = frozenset(field.name for field in fields(Meta))


def list_folders(root: Path) -> list[Path]:
    """Return the complete writer folders under `root`/spool; empty when there is no spool yet."""
    spool = root / "spool"
    try:
        with os.scandir(spool) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    except FileNotFoundError:
        return []
    return [spool / name for name in sorted(names)]


def read_meta(folder: Path) -> Meta:
    """Return the identity of the writer. Raises: SpoolError without a usable meta.json."""
    try:
        raw = json.loads((folder / META_FILE).read_text("utf-8"))
        version = raw["format"]
        if version == FORMAT_VERSION:
            raw["destination"] = read_facts(raw.get("destination", {}))
            return Meta(**{key: value for key, value in raw.items() if key in _META_FIELDS})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpoolError(f"{folder} is no readable spool folder: {error}") from error
    raise SpoolError(
        f"{folder} has spool format {version}, this runwire reads {FORMAT_VERSION}: use the "
        "version that wrote it"
    )


def writer_alive(folder: Path) -> bool:
    """Tell whether the writer lives: the kernel frees writer.lock on any kind of death."""
    return is_locked(folder / WRITER_LOCK)


class FolderReader:
    """The one reader of a spool folder.

    Raises: SpoolBusy when another process reads it, SpoolError when it is no spool folder.
    """

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        self.folder = folder
        self.meta = read_meta(folder)
        self.batch_seq = 0
        self._lock_fd = os.open(folder / READER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not try_lock(self._lock_fd):
            os.close(self._lock_fd)
            raise SpoolBusy(f"another process reads {folder}")
        self._sync = sync
        self._series = {name: self._reader(name) for name in SERIES}
        self._committed_batch_seq = 0
        self._committed_accepted = self._saved_accepted = 0
        self._accepted_after: dict[int, int] = {}
        self._delivered: dict[str, int] = {}
        self._writer_gone = False
        self._exhausted = False
        self._skip = (0, 0)
        # No file descriptor was left for a segment at the last look; another look tries again.
        self.is_short = False
        self._seen_mtime_ns = -1
        try:
            self._load()
        except OSError:
            self.close()
            raise

    def _reader(self, series: str) -> SeriesReader:
        return SeriesReader(self.folder, series, self.meta, sync=self._sync)

    @property
    def positions(self) -> dict[str, int]:
        """Return the committed position of each series: the next sequence number to deliver."""
        return {name: reader.committed for name, reader in self._series.items()}

    @property
    def committed_batch_seq(self) -> int:
        """Return the number after that of the last committed metric cut."""
        return self._committed_batch_seq

    def has_consumed_segment(self) -> bool:
        """Tell whether `save` would delete a segment."""
        return any(reader.has_consumed_segment() for reader in self._series.values())

    def is_awaited(self) -> bool:
        """Tell whether a caller of the writer waits for a newer saved position than there is."""
        return self._series["metric"].awaited() > self._saved_accepted

    @property
    def accepted(self) -> int:
        """Return how many of the writer's accepted points have been read, committed or not."""
        return self._series["metric"].accepted

    @property
    def writer_gone(self) -> bool:
        """Tell whether the writer had ended before the last `cut`, which then saw all of it."""
        return self._writer_gone

    def limit_cuts(self, bytes_max: int) -> None:
        """Make metric cuts of at most `bytes_max` of spool, but of at least one record."""
        self._series["metric"].cut_bytes = bytes_max

    def has_news(self) -> bool:
        """Tell at the cost of a few small reads whether `read` would find something.

        It sees records, new segments and files; the death of the writer it does not see.
        Raises: FileNotFoundError when the folder is gone.
        """
        if self.folder.stat().st_mtime_ns != self._seen_mtime_ns:
            return True
        return any(reader.has_moved() for reader in self._series.values())

    def cut(self, only: Collection[str] = SERIES) -> list[Cut]:
        """Return the next committed records of these series; empty when there is nothing new.

        Blocks: until they are on the device.
        """
        cuts = self.read(only)
        for error in sync_files(self.unsynced()).values():
            raise error
        self.synced()
        return cuts

    def read(self, only: Collection[str] = SERIES) -> list[Cut]:
        """Return what `cut` does before it is on the device.

        The cuts may be handed on once the files of `unsynced` are synced, and `synced` was told.
        """
        self._see_folder()
        if not self._writer_gone:
            # Checked before the read, which then sees every record of a writer that has ended.
            self._writer_gone = not writer_alive(self.folder)
        self.is_short = False
        cuts: list[Cut] = []
        for name in only:
            reader = self._series[name]
            try:
                fresh = reader.next_cuts(self.batch_seq, writer_gone=self._writer_gone)
            except OSError as error:
                if error.errno not in NO_DESCRIPTORS:
                    raise
                self.is_short, self._seen_mtime_ns = True, -1
                continue
            if name == "metric" and fresh:
                self._accepted_after[fresh[-1].last_seq + 1] = reader.accepted
                self.batch_seq += 1
            if fresh:
                self._delivered[name] = fresh[-1].last_seq + 1
            cuts += fresh
        is_whole = len(only) == len(SERIES) and not self.is_short
        self._exhausted = self._writer_gone and not cuts and is_whole
        return cuts

    def unsynced(self) -> list[int]:
        """Return the files that must be synced before the last cuts may be handed on."""
        return [fd for reader in self._series.values() for fd in reader.unsynced()]

    def synced(self) -> None:
        """Note that the files of `unsynced` are on the device."""
        for reader in self._series.values():
            reader.synced()

    def _see_folder(self) -> None:
        """Note the folder's time before a look; one that may still change unnoticed is not noted.

        Raises: FileNotFoundError.
        """
        mtime_ns = self.folder.stat().st_mtime_ns
        is_fresh = time.time_ns() - mtime_ns < FRESH_NS
        self._seen_mtime_ns = -1 if is_fresh else mtime_ns

    def replay(self, series: str, first_seq: int, last_seq: int, *, batch_seq: int) -> list[Cut]:
        """Rebuild exactly the cut that covered [first_seq, last_seq], before it is committed.

        Raises: SpoolError when its records are gone.
        """
        reader = self._reader(series)
        reader.seek(first_seq, accepted=self._accepted_before(first_seq))
        try:
            cuts = reader.replay(last_seq, batch_seq)
        finally:
            reader.close()
        if not cuts:
            raise SpoolError(f"{self.folder}: {series} records {first_seq}-{last_seq} are gone")
        if series == "metric":
            self._accepted_after[last_seq + 1] = reader.accepted
        return cuts

    def rewind(self, only: Collection[str] = SERIES) -> None:
        """Read these series again from their committed positions."""
        for name in only:
            self._seek(name, self._series[name].committed)
            self._delivered.pop(name, None)
        if "metric" in only:
            self.batch_seq = self._committed_batch_seq
            self._accepted_after.clear()
        self._exhausted = False

    def pass_over(self, series: str, next_seq: int, *, batch_seq: int) -> None:
        """Continue at `next_seq`: the records before it were replayed, and are not committed yet.

        `batch_seq` is the number for the next metric cut.
        """
        reader = self._series[series]
        committed, start = reader.committed, (next_seq, self._accepted_before(next_seq))
        if series == "metric":
            start = max(start, self._skip)
        reader.seek(start[0], accepted=start[1])
        reader.committed = committed
        self._delivered[series] = next_seq
        if series == "metric":
            self.batch_seq = max(self.batch_seq, batch_seq)

    def advance(self, series: str, next_seq: int, *, batch_seq: int | None = None) -> None:
        """Commit in memory: everything of `series` before `next_seq` is stored elsewhere.

        `batch_seq` is the number for the next metric cut.
        """
        reader = self._series[series]
        if next_seq <= reader.committed:
            return
        reader.committed = next_seq
        if series == "metric":
            for seq in [seq for seq in self._accepted_after if seq <= next_seq]:
                self._committed_accepted = max(
                    self._committed_accepted, self._accepted_after.pop(seq)
                )
            if batch_seq is not None:
                self._committed_batch_seq = max(self._committed_batch_seq, batch_seq)
                self.batch_seq = max(self.batch_seq, batch_seq)
        if reader.position < next_seq:
            reader.seek(next_seq, accepted=self._committed_accepted)

    def save(self) -> None:
        """Write the committed positions beside the segments, then delete what they cover."""
        cursor = Cursor(
            positions=self.positions,
            batch_seq=self._committed_batch_seq,
            accepted=self._committed_accepted,
            skip_seq=self._skip[0],
            skip_accepted=self._skip[1],
        )
        write_cursor(self.folder, cursor)
        self._saved_accepted = cursor.accepted
        for reader in self._series.values():
            for path in reader.consumed_segments(reader.committed):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                reader.forget(path)

    @property
    def at_rest(self) -> bool:
        """Tell whether everything that was read is committed."""
        return all(self._series[name].committed >= seq for name, seq in self._delivered.items())

    @property
    def drained(self) -> bool:
        """Tell whether the writer is gone and everything it committed is delivered and advanced."""
        return self._exhausted and self.at_rest

    def remove(self) -> None:
        """Delete the folder of a writer that is gone and wholly delivered."""
        with contextlib.suppress(OSError):  # without a note, implicit steps begin at 0 again
            keep_last_step(self.folder.parent.parent, self.meta, progress(self.folder).last_step)
        hidden = self.folder.with_name("." + self.folder.name)
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(hidden)  # no listing shows it half deleted
        shutil.rmtree(hidden, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Release the folder."""
        for reader in self._series.values():
            reader.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _accepted_before(self, seq: int) -> int:
        """Return the points before a metric record, from the cuts and commits so far."""
        counts = (self._accepted_after[after] for after in self._accepted_after if after <= seq)
        skipped = self._skip[1] if self._skip[0] <= seq else 0
        return max(self._committed_accepted, skipped, *counts)

    def _load(self) -> None:
        cursor = read_cursor(self.folder)
        self._committed_batch_seq = self.batch_seq = cursor.batch_seq
        self._committed_accepted = self._saved_accepted = cursor.accepted
        self._skip = (cursor.skip_seq, cursor.skip_accepted)
        for name in self._series:
            self._seek(name, cursor.positions[name])

    def _seek(self, name: str, committed: int) -> None:
        reader = self._series[name]
        if name != "metric":
            reader.seek(committed, accepted=0)
            return
        start, accepted = max((committed, self._committed_accepted), self._skip)
        reader.seek(start, accepted=accepted)
        reader.committed = committed

    def is_given_up(self, series: str, first_seq: int) -> bool:
        """Tell whether the writer deleted this record for want of space and counted it dropped."""
        return series == "metric" and first_seq < self._skip[0]
