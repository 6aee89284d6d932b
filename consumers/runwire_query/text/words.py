"""Numbers and times as people read them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

STATUS_COLOURS = {
    "running": 36,
    "finished": 32,
    "interrupted": 33,
    "preempted": 33,
    "failed": 31,
    "killed": 31,
    "lost": 31,
}

# Controls (C0, C1), line separators, what turns the direction of writing, and halves of characters,
# which no terminal takes.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """One line of text as others wrote it, escaped where it could move the reader's cursor."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def number(value: float | None) -> str:
    """Six significant digits, no trailing zeros."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Inf" if value > 0 else "-Inf")
    return f"{value:.6g}"


def age(since: datetime | None, now: datetime) -> str:
    """How long ago, in one unit."""
    if since is None:
        return "-"
    seconds = max(0.0, (now - as_utc(since)).total_seconds())
    return duration(seconds)


def duration(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def byte_size(count: int) -> str:
    """Three digits and a unit of 1024."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def as_utc(moment: datetime) -> datetime:
    """The same instant with a zone; the server's naive times are UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def of_ns(at_ns: int) -> datetime:
    """The instant of a unix time in nanoseconds."""
    return datetime.fromtimestamp(at_ns / 1e9, UTC)


def instant(moment: datetime | None) -> str:
    """ISO 8601 with seconds, or a dash."""
    return "-" if moment is None else as_utc(moment).strftime("%Y-%m-%d %H:%M:%SZ")


def coloured(status: str, *, colour: bool) -> str:
    """A status word in its colour."""
    code = STATUS_COLOURS.get(status)
    return f"\x1b[{code}m{status}\x1b[0m" if colour and code is not None else status
