"""Records of messages that any client may have written."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Message

from runwire_consumers.core.clock import MemoryClock
from runwire_consumers.kafka.partition import Partition
from runwire_consumers.kafka.source import _record
from support.builders import AT_NS

AT_MS = AT_NS // 1_000_000


class Stub:
    """A message with nothing but a time."""

    def __init__(self, kind: int, at_ms: int) -> None:
        self._timestamp = (kind, at_ms)

    def timestamp(self) -> tuple[int, int]:
        return self._timestamp

    def offset(self) -> int:
        return 0

    def value(self) -> bytes:
        return b""

    def key(self) -> bytes:
        return b""

    def headers(self) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("kind", "at_ms", "is_taken"),
    [
        (TIMESTAMP_CREATE_TIME, AT_MS, True),
        (TIMESTAMP_CREATE_TIME, AT_NS, False),
        (TIMESTAMP_CREATE_TIME, -5, False),
        (TIMESTAMP_NOT_AVAILABLE, 0, False),
    ],
)
def test_time_that_no_client_can_read_becomes_the_time_of_arrival(
    kind: int, at_ms: int, *, is_taken: bool
) -> None:
    """One message with nanoseconds for milliseconds must not break the lists of runs."""
    clock = MemoryClock()
    partition = Partition("t", 0, "id", "run", 0)
    record = _record(partition, cast("Message", Stub(kind, at_ms)), clock)
    assert record.append_at_ns == (AT_NS if is_taken else clock.unix_ns())
