"""Headers of messages, read so that no header can stop a worker.

Any client may write to a topic, and a header decides neither whether a record is read nor whether
it can be set aside.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from confluent_kafka import Message

from runwire_schemas.bounds import MESSAGE_BYTES_MAX

# A point takes at least a byte of its record.
POINTS_MAX: Final = MESSAGE_BYTES_MAX
_DIGITS_MAX: Final = len(str(POINTS_MAX))


def read_headers(message: Message) -> dict[str, bytes | str | None]:
    """Return the headers; none when the client cannot decode a name that is not UTF-8."""
    try:
        return dict(message.headers() or [])
    except (UnicodeDecodeError, SystemError):
        return {}


def count_points(message: Message) -> int:
    """Return the points that the header says are in the record; 0 for an implausible number."""
    return _points(read_headers(message).get("points"))


@lru_cache(4096)
def _points(value: bytes | str | None) -> int:
    digits = value.encode() if isinstance(value, str) else value or b""
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        return 0
    points = int(digits)
    return points if points <= POINTS_MAX else 0
