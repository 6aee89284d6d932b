"""Progress of a writer, read from its segment headers in constant time and without its help."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

from runwire_disk.spool.format import (
    DROP_REASONS,
    DROPPED_WORD,
    HEADER_BYTES,
    LAST_WORD,
    LAYOUT,
    METRIC,
    METRIC_HEAD,
    PHASE_BYTES,
    PHASE_OFFSET,
    RUN,
    SERIES,
    WIDE,
    SegmentHeader,
    SpoolError,
    commit_word,
    segment_name,
)
from runwire_disk.spool.scan import SpoolRecord, open_scan
from runwire_disk.spool.series_reader import segment_numbers

_DROPPED = struct.Struct(f"<{len(DROP_REASONS)}Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a writer as its spool shows it.

    Units: `accepted` in points, `dropped` in points or records by reason, `bytes` on disk.
    """

    last_step: int | None = None
    last_at_ns: int | None = None
    accepted: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    phase: str = ""
    bytes: int = 0


def progress(folder: Path) -> Progress:
    """Return the progress of the writer of `folder`. Raises: OSError when the folder is gone."""
    size = sum(e.stat().st_size for e in os.scandir(folder) if e.name.endswith(".seg"))
    dropped: dict[str, int] = {}
    phase, accepted = "", 0
    for index, number in enumerate(reversed(segment_numbers(folder, "metric"))):
        with (folder / segment_name("metric", number)).open("rb", buffering=0) as file:
            head = file.read(HEADER_BYTES)
            if len(head) < HEADER_BYTES:
                continue
            if index == 0:
                counts = _DROPPED.unpack_from(head, DROPPED_WORD * 8)
                dropped = {r: n for r, n in zip(DROP_REASONS, counts, strict=True) if n}
                phase = _phase(head)
                accepted = _base_accepted(head)
            record = _last_record(file.fileno(), head)
        if record is not None:
            step, at_ns, accepted = _metric_progress(record)
            return Progress(
                last_step=step,
                last_at_ns=at_ns,
                accepted=accepted,
                dropped=dropped,
                phase=phase,
                bytes=size,
            )
    return Progress(accepted=accepted, dropped=dropped, phase=phase, bytes=size)


def lifecycle_end(folder: Path) -> tuple[bool, int]:
    """Return (did this writer finish its run?, the next lifecycle sequence number)."""
    finished, next_seq = False, 0
    for number in segment_numbers(folder, "lifecycle"):
        path = folder / segment_name("lifecycle", number)
        scan = open_scan(path, series="lifecycle", number=number, expected=next_seq)
        try:
            while records := scan.step(1 << 20, sealed=True):
                for record in records:
                    if record.kind == RUN:
                        finished = json.loads(record.body[8:]).get("event") == "finished"
        finally:
            os.close(scan.fd)
        next_seq = scan.expected_seq
    return finished, next_seq


def spool_bytes(folder: Path) -> dict[str, int]:
    """Return bytes of segments by series."""
    sizes = dict.fromkeys(SERIES, 0)
    with os.scandir(folder) as entries:
        for entry in entries:
            series = entry.name.partition("-")[0]
            if entry.name.endswith(".seg") and series in sizes:
                sizes[series] += entry.stat().st_size
    return sizes


def _phase(head: bytes) -> str:
    raw = head[PHASE_OFFSET : PHASE_OFFSET + PHASE_BYTES]
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def _base_accepted(head: bytes) -> int:
    try:
        return SegmentHeader.unpack(head).base_accepted
    except SpoolError:
        return 0


def _last_record(fd: int, head: bytes) -> SpoolRecord | None:
    last = int.from_bytes(head[LAST_WORD * 8 : LAST_WORD * 8 + 8], "little")
    if last < HEADER_BYTES:
        return None
    word = int.from_bytes(os.pread(fd, 8, last), "little")
    body = os.pread(fd, word & 0xFFFFFF, last + 8)
    if len(body) < 8 or commit_word(word >> 24 & 0xFF, body) != word:
        return None
    return SpoolRecord(int.from_bytes(body[:8], "little"), word >> 24 & 0xFF, body)


def _metric_progress(record: SpoolRecord) -> tuple[int | None, int | None, int]:
    if record.kind == METRIC:
        _, _, at_ns, step, accepted, _, _ = METRIC_HEAD.unpack_from(record.body)
        return step, at_ns, accepted
    if record.kind in (LAYOUT, WIDE):
        fields = json.loads(record.body[8:])
        return fields["step"], fields["at_ns"], fields["accepted"]
    return None, None, 0
