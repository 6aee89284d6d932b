"""Pace of the looks at spool folders, after news and without."""

from __future__ import annotations

import pytest

from runwire_disk.spool.look_pace import (
    IDLE_LOOK_S,
    IDLE_REST_SHARE,
    MUCH_BYTES,
    REST_SHARE,
    LookPace,
)


@pytest.mark.parametrize(
    ("took_s", "news_bytes", "rest_s"),
    [
        (0.0, 0, IDLE_LOOK_S),
        (0.0, 1, 0.25),
        (1.0, MUCH_BYTES, 0.0),
        (0.1, 1, REST_SHARE * 0.1),
        (10.0, 0, 0.5),
        (0.005, 0, IDLE_REST_SHARE * 0.005),
    ],
)
def test_next_look_waits_by_news_and_cost(took_s: float, news_bytes: int, rest_s: float) -> None:
    """Much news: at once. Little: gather more. A long look: a rest in proportion, bounded."""
    pace = LookPace(0.25, 0.5)
    assert pace.next_s < 0
    pace.note(begin_s=0.0, end_s=took_s, has_news=news_bytes > 0, news_bytes=news_bytes)
    assert pace.next_s == pytest.approx(took_s + rest_s)
    pace.hurry()
    assert pace.next_s < 0
