"""Headers of foreign records: whatever they hold, the record is read and can be set aside."""

from __future__ import annotations

import pytest
from confluent_kafka import Message

from runwire_consumers.kafka.headers import POINTS_MAX, count_points, read_headers


def message(headers: list[tuple[str, bytes | None]]) -> Message:
    return Message(topic="t", value=b"", headers=headers)


@pytest.mark.parametrize(
    ("header", "points"),
    [
        (b"20", 20),
        (str(POINTS_MAX).encode(), POINTS_MAX),
        (str(POINTS_MAX + 1).encode(), 0),
        (b"9" * 21, 0),
        (b"9" * 5000, 0),
        (b"-1", 0),
        (b"1e9", 0),
        ("²".encode(), 0),
        (b"\xff", 0),
        (b"", 0),
        (None, 0),
    ],
)
def test_points_header_counts_only_plausible_numbers(header: bytes | None, points: int) -> None:
    """A number that no record can hold would overflow the tables that count lost points."""
    assert count_points(message([("points", header)])) == points


def test_record_without_headers_counts_no_points() -> None:
    """Foreign producers write no headers."""
    assert count_points(Message(topic="t")) == 0
    assert read_headers(Message(topic="t")) == {}
