"""Reader of one series of a writer: follows its segments from a committed position on."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from runwire_disk.spool.cut import Cut, MetricCutter, event_value
from runwire_disk.spool.format import SEGMENT_SUFFIX, Meta, segment_name
from runwire_disk.spool.metric_run import MetricRun
from runwire_disk.spool.scan import Damage, Scan, SpoolRecord, open_scan
from runwire_schemas.errors import SchemaError

# One cut stays below Kafka's default message.max.bytes of 1 MB: records shrink when encoded.
CUT_BYTES = 512 * 1024
# Syncing a live segment more often stalls its writer (measured: up to 17 ms at 4 per second).
SYNC_INTERVAL_S = 1.0

Found = SpoolRecord | MetricRun


def segment_numbers(folder: Path, series: str) -> list[int]:
    """Return the numbers of a series' segments, ascending."""
    prefix = series + "-"
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.startswith(prefix)]
    numbers = (name[len(prefix) : -len(SEGMENT_SUFFIX)] for name in names)
    return sorted(int(number) for number in numbers if number.isdigit())


class SeriesReader:
    """Reads records of one series in order; `position` is the next sequence number to deliver."""

    def __init__(self, folder: Path, series: str, meta: Meta, *, sync: bool) -> None:
        self.folder, self.series, self.meta = folder, series, meta
        self.committed = 0
        self.accepted = 0
        self.position = 0
        self.cut_bytes = CUT_BYTES
        self._sync = sync
        self._synced_at = 0.0
        self._is_due = False  # the segment must be synced before its cuts are handed on
        self._left: list[int] = []  # of segments read to their end, to be synced and closed
        self._prefix = f"{folder}/{series}-"
        self._scan: Scan | None = None
        self._numbers: list[int] = []
        self._bases: dict[int, int] = {}
        self._cutter = MetricCutter()
        self._is_listed = False
        self._is_followed = False  # another segment is there already
        # Of the end of a segment: reported with the records that follow, or at the writer's end.
        self._damages: list[Damage] = []

    def seek(self, seq: int, *, accepted: int) -> None:
        """Continue at `seq`, with `accepted` points delivered before it."""
        self.close()
        self.committed = self.position = seq
        self.accepted = accepted

    def close(self) -> None:
        """Release the open segment."""
        if self._scan is not None:
            os.close(self._scan.fd)
            self._scan = None
        self._close_left()
        self._is_listed = self._is_followed = self._is_due = False
        self._damages.clear()

    def has_moved(self) -> bool:
        """Tell whether there is more than was read; a new segment is not looked for."""
        if self._scan is None:
            return not self._is_listed
        return self._is_followed or self._scan.has_moved()

    def awaited(self) -> int:
        """Return how many accepted points a caller waits for."""
        return 0 if self._scan is None else self._scan.awaited()

    def has_consumed_segment(self) -> bool:
        """Tell whether a segment could be deleted: all of it is committed."""
        return len(self._bases) > 1 and bool(self.consumed_segments(self.committed))

    def unsynced(self) -> list[int]:
        """Return the files to sync before the last cuts may be handed on, then call `synced`."""
        return [*self._left, self._scan.fd] if self._is_due and self._scan else self._left

    def synced(self) -> None:
        """Note that the files of `unsynced` are on the device."""
        self._close_left()
        if self._is_due:
            self._is_due, self._synced_at = False, time.monotonic()

    def next_cuts(self, batch_seq: int, *, writer_gone: bool) -> list[Cut]:
        """Return the next committed records as cuts; empty when there is nothing new.

        Metric records make one cut numbered `batch_seq`; every other record is a cut of its own.
        They may be handed on once the files of `unsynced` are synced. Raises: OSError, and then
        another call continues.
        """
        while True:
            scan = self._current()
            if scan is None:
                return []
            # Looked for before the read: it seals this one.
            following = self._is_followed = self._exists(scan.number + 1)
            start = scan.position
            records = scan.step_runs(self.cut_bytes, sealed=following or writer_gone)
            fresh = self._fresh(records)
            self._damages += self._unreported(scan)
            is_end = writer_gone and not following and not records
            if fresh or (self._damages and is_end):
                damages = tuple(self._damages)
                self._damages.clear()
                self._want_sync()
                cuts = self._cuts(fresh, damages, batch_seq)
                if cuts:
                    cuts[-1] = replace(cuts[-1], spool_bytes=scan.position - start)
                    return cuts
                continue
            if records:
                continue
            if not following:
                return []
            self._open(scan.number + 1)

    def replay(self, last_seq: int, batch_seq: int) -> list[Cut]:
        """Rebuild the cuts from the position up to `last_seq`, however reads were sized then."""
        records: list[Found] = []
        damages: list[Damage] = []
        scan = self._current()
        while scan is not None:
            step = scan.step_runs(CUT_BYTES, sealed=True)
            records += _between(self._fresh(step), 0, last_seq)
            damages += [d for d in self._unreported(scan) if d.first_seq <= last_seq]
            if step and step[-1].last_seq < last_seq:
                continue
            if step or records or not self._exists(scan.number + 1):
                break
            self._open(scan.number + 1)
            scan = self._scan
        if scan is None or not (records or damages):
            return []
        return self._cuts(records, tuple(damages), batch_seq)

    def consumed_segments(self, committed: int) -> list[Path]:
        """Return the segments with a successor whose records are all before `committed`."""
        pairs = pairwise(sorted(self._bases))
        return [self._path(number) for number, after in pairs if self._bases[after] <= committed]

    def forget(self, path: Path) -> None:
        """Forget a deleted segment."""
        self._bases.pop(int(path.stem.rpartition("-")[2]), None)

    def _path(self, number: int) -> Path:
        return self.folder / segment_name(self.series, number)

    def _exists(self, number: int) -> bool:
        try:
            os.stat(f"{self._prefix}{number:08d}{SEGMENT_SUFFIX}")  # noqa: PTH116 - at each look
        except FileNotFoundError:
            return False
        return True

    def _current(self) -> Scan | None:
        if self._scan is None:
            numbers = [1] if self._is_listed else segment_numbers(self.folder, self.series)
            if numbers and self._exists(numbers[0]):
                self._open(self._number_holding(numbers))
            self._is_listed = True  # not before: after a failed open the first one may be deleted
        return self._scan

    def _number_holding(self, numbers: list[int]) -> int:
        """Find the segment of the committed position: the last that starts at or before it."""
        chosen = numbers[0]
        for number in numbers:
            scan = open_scan(
                self._path(number), series=self.series, number=number, expected=self.position
            )
            os.close(scan.fd)
            self._bases[number] = scan.expected_seq
            if scan.header_error or scan.expected_seq > self.position:
                break
            chosen = number
        return chosen

    def _open(self, number: int) -> None:
        old = self._scan
        expected = old.expected_seq if old else self.position
        scan = open_scan(self._path(number), series=self.series, number=number, expected=expected)
        if old is not None:
            self._left.append(old.fd)
            if not self._sync:
                self._close_left()
        if scan.header_error:
            scan.damages.append(Damage(self.series, number, 0, 0, 0, expected, b""))
        self._scan = scan
        self._bases[number] = scan.expected_seq
        self._cutter = MetricCutter(accepted=self.accepted)

    def _fresh(self, records: list[Found]) -> list[Found]:
        """Return the records from the position on; older ones only teach layouts."""
        if not records or records[0].seq >= self.position:
            return records
        for record in records:
            if record.seq < self.position and isinstance(record, SpoolRecord):
                self._cutter.learn(record)
        return _between(records, self.position, records[-1].last_seq)

    def _unreported(self, scan: Scan) -> list[Damage]:
        """Take the damages of a scan; those before the position were reported with their cuts."""
        fresh = [d for d in scan.damages if d.first_seq + max(1, d.lost_records) > self.position]
        scan.damages.clear()
        return fresh

    def _cuts(self, records: list[Found], damages: tuple[Damage, ...], batch_seq: int) -> list[Cut]:
        if self.series == "metric":
            cuts = self._metric_cut(records, damages, batch_seq)
        else:
            cuts = self._event_cuts(records, damages)
        # Damage alone ends a series: its cut takes the number after the last record.
        self.position = (records[-1].last_seq if records else self.position) + 1
        return cuts

    def _metric_cut(
        self, records: list[Found], damages: tuple[Damage, ...], batch_seq: int
    ) -> list[Cut]:
        cutter = self._cutter
        cutter.accepted = self.accepted
        for record in records:
            cutter.add(record)
        self.accepted = cutter.accepted
        points, lost = cutter.points, cutter.points_lost
        if not points and not lost and not damages:
            return []  # layouts only: they travel with the metrics that follow
        last = records[-1].last_seq if records else self.position
        return [
            Cut(
                writer=self.meta.writer,
                kind="metric",
                series=self.series,
                first_seq=self.position,
                last_seq=last,
                batch_seq=batch_seq,
                points=points,
                value=cutter.take(self.meta, batch_seq),
                points_lost=lost,
                damage=damages,
            )
        ]

    def _event_cuts(self, records: list[Found], damages: tuple[Damage, ...]) -> list[Cut]:
        first, cuts = self.position, []
        for record in records:
            assert isinstance(record, SpoolRecord), "metric records are in the metric series"
            try:
                kind, value = event_value(record, self.meta)
            except SchemaError:
                damage = Damage(self.series, 0, 0, len(record.body), 1, record.seq, record.body)
                damages, kind, value = (*damages, damage), "log", b""
            cuts.append(self._event_cut(kind, value, (first, record.seq), damages))
            first, damages = record.seq + 1, ()
        if damages:
            cuts.append(self._event_cut("log", b"", (first, first), damages))
        return cuts

    def _event_cut(
        self, kind: str, value: bytes, span: tuple[int, int], damages: tuple[Damage, ...]
    ) -> Cut:
        return Cut(
            writer=self.meta.writer,
            kind=kind,
            series=self.series,
            first_seq=span[0],
            last_seq=span[1],
            batch_seq=0,
            points=0,
            value=value,
            damage=damages,
        )

    def _want_sync(self) -> None:
        is_due = self.series == "lifecycle" or (
            time.monotonic() - self._synced_at >= SYNC_INTERVAL_S
        )
        self._is_due = self._is_due or (self._sync and is_due)

    def _close_left(self) -> None:
        while self._left:
            os.close(self._left.pop())


def _between(records: list[Found], first_seq: int, last_seq: int) -> list[Found]:
    """Return the records of these numbers, with runs cut to them."""
    if records and records[0].seq >= first_seq and records[-1].last_seq <= last_seq:
        return records
    kept: list[Found] = []
    for record in records:
        if isinstance(record, MetricRun):
            part = record.part(first_seq, last_seq)
            kept += [] if part is None else [part]
        elif first_seq <= record.seq <= last_seq:
            kept.append(record)
    return kept
