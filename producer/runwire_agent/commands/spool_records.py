"""Spool segments for people, read beside their one reader: no lock, no cursor moved."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runwire_disk.spool.format import (
    JSON_KINDS,
    LAYOUT,
    METRIC,
    METRIC_HEAD,
    WIDE,
    SpoolError,
    read_cursor,
    segment_name,
)
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import read_meta, writer_alive
from runwire_disk.spool.scan import Scan, SpoolRecord, open_scan
from runwire_disk.spool.series_reader import segment_numbers

STEP_BYTES = 1 << 20


def describe(folder: Path) -> dict[str, Any] | None:
    """Return one row of `spool ls`; None when the folder was delivered and removed meanwhile."""
    try:
        meta, done, cursor = read_meta(folder), progress(folder), read_cursor(folder)
    except (SpoolError, OSError) as error:
        return {"folder": folder.name, "error": str(error)} if folder.exists() else None
    return {
        "folder": folder.name,
        "error": "",
        "writer": meta.writer,
        "role": meta.role,
        "project": meta.project,
        "run_id": meta.run_id,
        "rank": meta.rank,
        "alive": writer_alive(folder),
        "pid": meta.pid,
        "host": meta.host,
        "last_step": done.last_step,
        "accepted_points": done.accepted,
        "pending_points": max(0, done.accepted - cursor.accepted),
        "dropped_points": sum(done.dropped.values()),
        "bytes": done.bytes,
    }


def verify_folder(folder: Path, series: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield one report per segment: the number of sound records, and a sentence per damage."""
    for name in series:
        for scan, sealed in _scans(folder, name):
            count = sum(len(records) for records in _steps(scan, sealed=sealed))
            damage = [part.reason for part in scan.damages]
            if scan.header_error:
                damage.insert(0, scan.header_error)
            yield {
                "file": str(folder / segment_name(name, scan.number)),
                "records": count,
                "damage": damage,
            }


def read_records(folder: Path, series: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the records that are still in the folder, as JSON values."""
    writer = read_meta(folder).writer
    for name in series:
        for scan, sealed in _scans(folder, name):
            layouts: dict[int, list[str]] = {}
            for records in _steps(scan, sealed=sealed):
                for record in records:
                    fields = _fields(record, layouts)
                    if fields is not None:
                        yield {"writer": writer, "series": name, "seq": record.seq, **fields}


def _scans(folder: Path, series: str) -> Iterator[tuple[Scan, bool]]:
    """Yield the segments, and whether each is complete: nothing will be appended to it."""
    alive = writer_alive(folder)  # checked first: the segments of a dead writer are complete
    numbers = segment_numbers(folder, series)
    expected: int | None = None
    for number in numbers:
        path = folder / segment_name(series, number)
        try:
            scan = open_scan(path, series=series, number=number, expected=expected or 0)
        except FileNotFoundError:
            continue  # delivered and deleted meanwhile
        if expected is None:
            scan.damages.clear()  # the segments before the first one were delivered, not lost
        try:
            yield scan, not alive or number != numbers[-1]
        finally:
            os.close(scan.fd)
        expected = scan.expected_seq


def _steps(scan: Scan, *, sealed: bool) -> Iterator[list[SpoolRecord]]:
    while records := scan.step(STEP_BYTES, sealed=sealed):
        yield records


def _fields(record: SpoolRecord, layouts: dict[int, list[str]]) -> dict[str, Any] | None:
    if record.kind == LAYOUT:
        layout = json.loads(record.body[8:])
        layouts[layout["id"]] = layout["names"]
        return None
    if record.kind == METRIC:
        return _metric(record.body, layouts)
    if record.kind == WIDE:
        wide = json.loads(record.body[8:])
        call, at_ns, step = wide["call"], wide["at_ns"], wide["step"]
        return _call(call, at_ns, step, names=wide["names"], values=wide["values"])
    kind = JSON_KINDS.get(record.kind, f"kind {record.kind}")
    return {"kind": kind, **json.loads(record.body[8:])}


def _metric(body: bytes, layouts: dict[int, list[str]]) -> dict[str, Any]:
    _, call, at_ns, step, _, layout, n = METRIC_HEAD.unpack_from(body)
    values = struct.unpack_from(f"<{n}d", body, METRIC_HEAD.size)
    names = layouts.get(layout) or [f"?{index}" for index in range(n)]
    return _call(call, at_ns, step, names=names, values=values)


def _call(
    call: int, at_ns: int, step: int, *, names: Sequence[str], values: Sequence[float]
) -> dict[str, Any]:
    readable = {name: _number(value) for name, value in zip(names, values, strict=False)}
    return {"kind": "metric", "call": call, "at_ns": at_ns, "step": step, "values": readable}


def _number(value: float) -> float | str:
    """JSON knows no NaN: such values become the words NaN, Infinity, -Infinity."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
