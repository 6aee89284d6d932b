"""Numbers, sizes, times and status words as people read them."""

from __future__ import annotations

import math
from datetime import datetime

STATUS_COLOURS = {
    "running": 36,
    "finished": 32,
    "interrupted": 33,
    "preempted": 33,
    "failed": 31,
    "killed": 31,
    "lost": 31,
}


# Twice the silence after which the views call a run lost, where another run still beats.
SILENT_S = 120


def number(value: float | None) -> str:
    """Return six significant digits without trailing zeros; a dash for None."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Inf" if value > 0 else "-Inf")
    return f"{value:.6g}"


def age(since: datetime | None, now: datetime) -> str:
    """Return the time from `since` to `now` in one unit, or a dash."""
    return "-" if since is None else duration(max(0.0, (now - since).total_seconds()))


def duration(seconds: float) -> str:
    """Return a length of time in its largest fitting unit. Units: seconds in."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def silence(status: str, last_seen_at: datetime | None, now: datetime) -> str:
    """Return since when a running run is silent, else the empty text.

    The views judge silence by the heartbeats of others: with none left, a run whose machine or
    container is gone stays "running", as it does while the pipeline lags.
    """
    if status != "running" or last_seen_at is None:
        return ""
    silent_s = (now - last_seen_at).total_seconds()
    return f"silent for {duration(silent_s)}" if silent_s >= SILENT_S else ""


def byte_size(count: int) -> str:
    """Return three digits and a unit of 1024. Units: bytes in."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def instant(moment: datetime | None) -> str:
    """Return a UTC time with seconds, or a dash."""
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%SZ")


def coloured(status: str, *, colour: bool) -> str:
    """Return a status word in its terminal colour, plain when `colour` is off."""
    code = STATUS_COLOURS.get(status)
    return f"\x1b[{code}m{status}\x1b[0m" if colour and code is not None else status
