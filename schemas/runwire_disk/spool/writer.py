"""Writer of a spool folder: identity, lock, series, quota and drop counters of one process."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from runwire_disk.files import try_lock
from runwire_disk.spool.format import (
    KIND_SERIES,
    META_FILE,
    SERIES,
    WRITER_LOCK,
    Cursor,
    Meta,
    SpoolError,
    write_cursor,
)
from runwire_disk.spool.quota import FREE_RATIO_MIN, Quota
from runwire_disk.spool.segment import Segment
from runwire_disk.spool.series_writer import RecordTooLarge, Series

# Of lifecycle records in memory while the disk is full; beyond it they are counted as dropped.
WAITING_BYTES_MAX = 8 * 1024 * 1024
QUOTA_BYTES = 2 * 1024**3


class SpoolWriter:
    """Appends records that survive SIGKILL once `append` returns.

    Threads: safe. A forked child must not use it: call `abandon` there.
    """

    def __init__(self, folder: Path, meta: Meta, lock_fd: int, quota: Quota) -> None:
        self.folder, self.meta = folder, meta
        # Points given up to make room for newer ones, and points of a folder that was deleted.
        self.given_up = self.deleted = 0
        # The folder was deleted and no new one could be made yet.
        self.is_homeless = False
        self.dropped: dict[str, int] = {}
        self.phase = ""
        self._lock_fd = lock_fd
        self._quota = quota
        self._waiting: deque[tuple[int, bytes]] = deque()
        writer = bytes.fromhex(meta.writer)
        self.series = {name: Series(folder, name, writer, self._on_new) for name in SERIES}

    @classmethod
    def create(
        cls,
        root: Path,
        meta: Meta,
        *,
        quota_bytes: int = QUOTA_BYTES,
        free_ratio_min: float = FREE_RATIO_MIN,
    ) -> SpoolWriter:
        """Make the folder, take its lock, publish it. Raises: SpoolError with what to do."""
        spool = root / "spool"
        name = f"{_file_name(meta.run_id)}-r{meta.rank}-{meta.writer[:12]}"
        final = spool / name
        if final.exists():
            raise SpoolError(
                f"{final} exists: two processes claim writer {meta.writer}. A writer id belongs "
                "to one process; do not copy one between processes"
            )
        try:
            lock_fd = _publish(spool, name, meta)
        except OSError as error:
            raise _unmakeable(spool, error) from error
        return cls(final, meta, lock_fd, Quota(final, quota_bytes, free_ratio_min))

    def append(self, series: str, kind: int, payload: bytes) -> int:
        """Append one record and return its sequence number, or -1 when it was dropped."""
        target = self.series[series]
        with target.lock:
            if series == "lifecycle" and self._waiting:
                self._retry_waiting(target)
            try:
                # A class over its share of the quota gets no new segment; the live one fills up.
                if target.limit - target.state[0] < len(payload) + 32:
                    self.admit(target)
                return target.append(kind, payload)
            except (OSError, RecordTooLarge) as error:
                reason = self.refused(target, error)
                if series == "lifecycle" and self._wait(reason, kind, payload):
                    return -1
                self.count_dropped(reason)
        return -1

    def admit(self, series: Series) -> None:
        """Ask for one more segment, freeing old ones if need be. Raises: OSError when refused."""
        try:
            self._quota.admit(series)
        finally:
            if self._quota.evicted_points:
                points, self._quota.evicted_points = self._quota.evicted_points, 0
                self.given_up += points
                self.count_dropped("evicted", points)

    def refused(self, series: Series, error: Exception) -> str:
        """Return the drop reason for a failed append, and let the next ones fail fast."""
        if isinstance(error, OSError):
            self._quota.refuse(series, error)
            return self._quota.reason(error)
        return "too_large"

    def advice(self, reason: str) -> str:
        """Return a sentence about what a user can do about a drop reason."""
        return _ADVICE.get(reason, "").format(folder=self.folder)

    def append_json(self, kind: str, fields: Mapping[str, object]) -> int:
        """Append an event's own fields; identity comes from meta unless `fields` says otherwise."""
        series, code = KIND_SERIES[kind]
        stamped = {"at_ns": time.time_ns(), **fields}
        text = json.dumps(stamped, ensure_ascii=False, separators=(",", ":"))
        # Lone surrogates (file names, broken tokenizers) are no text that Avro could carry.
        return self.append(series, code, text.encode("utf-8", "replace"))

    def count_dropped(self, reason: str, n: int = 1) -> None:
        """Count `n` records or points as dropped, visibly in the live segment's header."""
        self.dropped[reason] = self.dropped.get(reason, 0) + n
        self.show_counts()

    def set_phase(self, phase: str) -> None:
        """Show the trainer's phase to readers of the header."""
        self.phase = phase
        self.show_counts()

    def show_counts(self) -> None:
        """Copy counters and phase into the live metric segment's header."""
        segment = self.series["metric"].segment
        if segment is not None:
            segment.set_counts(self.dropped, self.phase)

    @property
    def eviction_cause(self) -> str:
        """Cause of the last eviction: "quota" or "disk_full"."""
        return self._quota.eviction_cause

    @property
    def waiting(self) -> int:
        """Lifecycle records that wait in memory for disk space."""
        return len(self._waiting)

    def sync(self) -> None:
        """Force everything appended so far to the device."""
        for series in self.series.values():
            with series.lock:
                if series.segment is not None:
                    series.segment.sync()

    def close(self) -> None:
        """Write the waiting records, close the segments, free the lock: the writer has ended."""
        lifecycle = self.series["lifecycle"]
        with lifecycle.lock:
            self._retry_waiting(lifecycle)
        for series in self.series.values():
            with series.lock:
                series.close()
        self.abandon()

    def abandon(self) -> None:
        """Drop the lock's descriptor only: what a forked child does with its parent's writer."""
        if self._lock_fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._lock_fd)
            self._lock_fd = -1

    def _on_new(self, segment: Segment) -> None:
        if segment.path.name.startswith("metric-"):
            segment.set_counts(self.dropped, self.phase)

    def _wait(self, reason: str, kind: int, payload: bytes) -> bool:
        size = sum(len(waiting) for _, waiting in self._waiting) + len(payload)
        if reason == "too_large" or size > WAITING_BYTES_MAX:
            return False
        self._waiting.append((kind, payload))
        return True

    def _retry_waiting(self, target: Series) -> None:
        while self._waiting:
            kind, payload = self._waiting[0]
            try:
                target.append(kind, payload)
            except OSError:
                return
            self._waiting.popleft()

    def recover_deleted(self) -> int:
        """Start over in a new folder after the old one was deleted under a live writer.

        Returns the number of points counted as lost.

        Every point of the deleted live segment counts as lost: nothing shows any more which of
        them a reader had delivered. The caller holds no lock.
        Raises: SpoolError when no new folder can be made.
        """
        import shutil  # loads every compressor; a trainer hardly ever gets here

        metric = self.series["metric"]
        states = {name: series.position() for name, series in self.series.items()}
        base = metric.segment.base_accepted if metric.segment else states["metric"].accepted
        lost = states["metric"].accepted - base
        for series in self.series.values():
            with series.lock:
                series.close()
        self.abandon()
        self.deleted += lost
        self.count_dropped("spool_lost", lost)
        self.is_homeless, folder = True, self.folder
        shutil.rmtree(_hidden(folder.parent, self.meta), ignore_errors=True)  # left by a failed try
        try:
            self._lock_fd = _publish(folder.parent, folder.name, self.meta)
            positions = {name: state.seq for name, state in states.items()}
            # No cut had a number that high, so no number comes back with other points.
            batch_seq = positions["metric"]
            cursor = Cursor(
                positions=positions, batch_seq=batch_seq, accepted=states["metric"].accepted
            )
            write_cursor(folder, cursor)
        except OSError as error:
            raise _unmakeable(folder.parent, error) from error
        self.is_homeless = False
        return lost


_ADVICE = {
    "disk_full": "Free space on the disk of {folder}, or set RUNWIRE_DIR to another one.",
    "quota": "Start `runwire up` so that the spool is read, or raise RUNWIRE_QUOTA_BYTES.",
    "unwritable": "{folder} is gone or read-only; set RUNWIRE_DIR to a local writable folder.",
    "deleted": "Delete runs with `runwire delete RUN`, never their spool folders.",
    "too_large": "Log fewer or shorter values per call.",
}


def _unmakeable(spool: Path, error: OSError) -> SpoolError:
    return SpoolError(
        f"cannot make a spool folder in {spool}: {error.strerror or error}. Give a "
        "writable local folder with free space through dir= or RUNWIRE_DIR"
    )


def _hidden(spool: Path, meta: Meta) -> Path:
    return spool / f".new-{meta.writer}"


def _publish(spool: Path, name: str, meta: Meta) -> int:
    """Make a writer's folder complete, then give it its name; return the held lock."""
    hidden = _hidden(spool, meta)
    spool.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    spool.mkdir(mode=0o700, exist_ok=True)
    hidden.mkdir(mode=0o700)
    lock_fd = os.open(hidden / WRITER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try_lock(lock_fd)  # free: this call made the folder
    (hidden / META_FILE).write_text(json.dumps(asdict(meta), indent=1), "utf-8")
    hidden.rename(spool / name)
    return lock_fd


def _file_name(run_id: str) -> str:
    """Return a file name part: user-supplied ids never choose paths."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in run_id)[:80]
