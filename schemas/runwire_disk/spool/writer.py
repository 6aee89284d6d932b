"""Writer of a spool folder: identity, lock, series, quota and drop counters of one process."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from runwire_disk.files import DESCRIPTORS_ADVICE, NO_DESCRIPTORS, try_lock
from runwire_disk.interrupts import reraise_interrupt, suppressed
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
from runwire_disk.spool.series_lock import WAIT_S, holds_series
from runwire_disk.spool.series_writer import RecordTooLarge, Series, SeriesClosed

# Of records in memory, lifecycle ones while the disk is full and those of signal handlers; beyond
# it they are counted as dropped.
WAITING_BYTES_MAX = 8 * 1024 * 1024
QUOTA_BYTES = 2 * 1024**3


class SpoolWriter:
    """Appends records that survive SIGKILL once `append` returns.

    Threads: safe; also from signal handlers. A forked child must not use it: call `abandon` there.
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
        self._waiting: dict[str, deque[tuple[int, bytes]]] = {name: deque() for name in SERIES}
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
        name = folder_prefix(meta.run_id, meta.rank) + meta.writer[:12]
        final = spool / name
        try:
            is_taken = final.exists()
        except OSError as error:  # a path too long
            raise _unmakeable(spool, error) from error
        if is_taken:
            raise SpoolError(
                f"{final} exists: two processes claim writer {meta.writer}. A writer id belongs "
                "to one process; do not copy one between processes"
            )
        try:
            lock_fd = _publish(spool, name, meta)
        except OSError as error:
            raise _unmakeable(spool, error) from error
        return cls(final, meta, lock_fd, Quota(final, quota_bytes, free_ratio_min))

    @holds_series
    def append(
        self,
        name: str,
        kind: int,
        payload: bytes,
        *,
        wait_s: float = WAIT_S,
        is_last: bool = False,
    ) -> int:
        """Append one record and return its sequence number, or -1 when it waits or was dropped.

        Called by a signal handler that interrupted an append to the same series, or after waiting
        `wait_s` for another thread, it keeps the record in memory; the next append or `close`
        stores it. One that `is_last` is stored at once: what it interrupted does not go on, or
        finds the series closed.
        """
        series = self.series[name]
        lock = series.lock.take(wait_s)
        if lock is None and not (is_last and series.lock.is_own()):
            if not self._keep(name, kind, payload):
                self.count_dropped("other")
            return -1
        try:
            waiting = self._waiting[name]
            if waiting:
                self._retry_waiting(series)
            seq = self._append(series, kind, payload)
            if waiting:  # of a signal handler, just now
                self._retry_waiting(series)
            return seq
        finally:
            if lock is not None:
                lock.release()

    def _append(self, series: Series, kind: int, payload: bytes) -> int:
        try:
            # A class over its share of the quota gets no new segment; the live one fills up.
            if series.limit - series.state[0] < len(payload) + 32:
                self.admit(series)
            return series.append(kind, payload)
        except (OSError, RecordTooLarge, SeriesClosed) as error:
            reason = self.refused(series, error)
            is_kept = series.name == "lifecycle" and isinstance(error, OSError)
            if not (is_kept and self._keep(series.name, kind, payload)):
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
        """Return the drop reason for a failed append, and let the next ones fail fast.

        Raises: an interrupt, such as the TimeoutError of a user's signal handler, which is no
        failure of the disk.
        """
        reraise_interrupt(error)
        if isinstance(error, SeriesClosed):
            return "finished"
        if isinstance(error, OSError):
            self._quota.refuse(series, error)
            return self._quota.reason(error)
        return "too_large"

    def advice(self, reason: str, error: Exception | None = None) -> str:
        """Return a sentence about what a user can do about a drop reason."""
        if isinstance(error, OSError) and error.errno in NO_DESCRIPTORS:
            return DESCRIPTORS_ADVICE
        return _ADVICE.get(reason, "").format(folder=self.folder)

    def append_json(
        self,
        kind: str,
        fields: Mapping[str, object],
        *,
        wait_s: float = WAIT_S,
        is_last: bool = False,
    ) -> int:
        """Append an event's own fields; identity comes from meta unless `fields` says otherwise.

        `wait_s` and `is_last` are those of `append`.
        """
        series, code = KIND_SERIES[kind]
        stamped = {"at_ns": time.time_ns(), **fields}
        text = json.dumps(stamped, ensure_ascii=False, separators=(",", ":"))
        # Lone surrogates (file names, broken tokenizers) are no text that Avro could carry.
        payload = text.encode("utf-8", "replace")
        return self.append(series, code, payload, wait_s=wait_s, is_last=is_last)

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
        """Records that wait in memory, for disk space or for an append that was interrupted."""
        return sum(map(len, self._waiting.values()))

    @holds_series
    def sync(self, names: Iterable[str] = SERIES, *, wait_s: float = WAIT_S) -> None:
        """Force everything appended so far to the device.

        Leaves out a series that another thread holds for `wait_s`.
        """
        for name in names:
            series = self.series[name]
            lock = series.lock.take(wait_s)
            if lock is None and not series.lock.is_own():
                continue
            try:
                if series.segment is not None:
                    series.segment.sync()
            finally:
                if lock is not None:
                    lock.release()

    @holds_series
    def seal(self, name: str) -> None:
        """Let a series take no more records, so that its counts are final."""
        series = self.series[name]
        lock = series.lock.take()
        if lock is None and not series.lock.is_own():
            return
        try:
            series.seal()
        finally:
            if lock is not None:
                lock.release()

    @holds_series
    def close(self) -> None:
        """Write the waiting records, close the segments, free the lock: the writer has ended.

        A series that another thread holds for long (its disk hangs) stays open; the rest is closed.
        """
        for series in self.series.values():
            lock = series.lock.take()
            if lock is None and not series.lock.is_own():
                continue
            try:
                self._retry_waiting(series)
                series.close()
            finally:
                if lock is not None:
                    lock.release()
        self.abandon()

    def abandon(self) -> None:
        """Drop the lock's descriptor only: what a forked child does with its parent's writer."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            with suppressed(OSError):
                os.close(fd)

    def _on_new(self, segment: Segment) -> None:
        if segment.path.name.startswith("metric-"):
            segment.set_counts(self.dropped, self.phase)

    def _keep(self, name: str, kind: int, payload: bytes) -> bool:
        """Keep a record in memory; false when there is no room for it."""
        size = sum(len(kept) for waiting in self._waiting.values() for _, kept in tuple(waiting))
        if size + len(payload) > WAITING_BYTES_MAX:
            return False
        self._waiting[name].append((kind, payload))
        return True

    def _retry_waiting(self, series: Series) -> None:
        waiting = self._waiting[series.name]
        while waiting and not series.is_closed:
            kind, payload = waiting[0]
            try:
                series.append(kind, payload)
            except RecordTooLarge:
                self.count_dropped("too_large")
            except OSError as error:
                reraise_interrupt(error)
                return
            waiting.popleft()

    @holds_series
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
            lock = series.lock.take()
            try:
                series.restart()
            finally:
                if lock is not None:
                    lock.release()
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
    "finished": "Log before finish(), or start another run with runwire.init().",
}


def _unmakeable(spool: Path, error: OSError) -> SpoolError:
    advice = "Give a writable local folder with free space through dir= or RUNWIRE_DIR"
    if error.errno in NO_DESCRIPTORS:
        advice = DESCRIPTORS_ADVICE
    return SpoolError(f"cannot make a spool folder in {spool}: {error.strerror or error}. {advice}")


def _hidden(spool: Path, meta: Meta) -> Path:
    return spool / f".new-{meta.writer}"


def _publish(spool: Path, name: str, meta: Meta) -> int:
    """Make a writer's folder complete, then give it its name; return the held lock."""
    hidden = _hidden(spool, meta)
    spool.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    spool.mkdir(mode=0o700, exist_ok=True)
    try:
        hidden.mkdir(mode=0o700)
        lock_fd = os.open(hidden / WRITER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not try_lock(lock_fd):
                raise OSError(errno.EBUSY, "another process has locked the new folder")
            (hidden / META_FILE).write_text(json.dumps(asdict(meta), indent=1), "utf-8")
            hidden.rename(spool / name)
        except BaseException:
            os.close(lock_fd)
            raise
    except BaseException:
        _discard(hidden)
        raise
    return lock_fd


def folder_prefix(run_id: str, rank: int) -> str:
    """Return how the folder names of one rank begin; other runs may have the same beginning."""
    return f"{_file_name(run_id)}-r{rank}-"


def _discard(hidden: Path) -> None:
    """Remove what a failed `_publish` made; it needs no descriptor, for there may be none left."""
    for remove in ((hidden / WRITER_LOCK).unlink, (hidden / META_FILE).unlink, hidden.rmdir):
        with suppressed(OSError):
            remove()


def _file_name(run_id: str) -> str:
    """Return a file name part: user-supplied ids never choose paths."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in run_id)[:80]
