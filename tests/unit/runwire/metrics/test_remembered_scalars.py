"""Scalars of arrays, read where the last calls with these names had some."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runwire_disk.spool.reader import FolderReader
from support.careful import functions_of, keep_both_ways
from support.spools import metric_log, new_writer

CALLS = 20

POOL: list[Callable[[], Any]] = [
    lambda: 1.5,
    lambda: float("nan"),
    lambda: 7,
    lambda: 2**60 + 1,
    lambda: True,
    lambda: None,
    lambda: "text",
    lambda: np.array(2.5),
    lambda: np.array(np.inf, dtype=np.float16),
    lambda: np.array(3),
    lambda: np.array(False),
    lambda: np.array(2**60 + 1),
    lambda: np.array("4.5"),
    lambda: np.array(1j),
    lambda: np.array(10**400, dtype=object),
    lambda: np.array(5, dtype=object),
    lambda: np.array(None),
    lambda: np.array([6.0]),
    lambda: np.array([1.0, 2.0]),
    lambda: np.zeros(0),
    lambda: np.array(8.0, dtype=np.longdouble),
    lambda: np.datetime64("2026-01-02"),
    lambda: np.float32(0.1),
    lambda: np.int64(2**60 + 1),
    lambda: np.uint64(2**64 - 1),
    lambda: np.ma.array(1.0, mask=True),
    lambda: np.ma.array(9.0, mask=False),
]


def test_calls_keep_what_careful_calls_keep_whatever_stands_where(
    tmp_path: Path, seed: int
) -> None:
    """Values, counts of dropped ones and last values are those of the sorter, in any order."""
    rng = random.Random(seed)
    calls = []
    for _ in range(CALLS):
        # A few kinds at each position for a while, so that the log remembers and is surprised.
        kinds = [rng.sample(POOL, 2) for _ in range(4)]
        calls += [
            {f"m{index}": rng.choice(pair)() for index, pair in enumerate(kinds)} for _ in range(6)
        ]
    plain, careful = keep_both_ways(tmp_path, calls)
    assert plain == careful


@pytest.mark.parametrize("kind", [np.array, np.int64, np.uint64])
def test_scalar_where_the_call_before_had_one_takes_the_short_way(
    tmp_path: Path, kind: Callable[[int], Any]
) -> None:
    """The second call with the same kinds of value runs a few functions, the first one many."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    log.log({"warm": 1.0})
    data = {f"m{index}": float(index) for index in range(9)} | {"scalar": kind(3)}
    first = functions_of(log, data)
    assert functions_of(log, data) <= 5 < first
    assert log.last()["scalar"] == 3.0
    writer.close()


def test_pages_ahead_are_present_before_the_log_gets_there(tmp_path: Path) -> None:
    """A segment has more pages in memory than its first record needs, and no more on disk."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    log.log({"m": 1.0})
    segment = writer.folder / "metric-00000001.seg"
    size = segment.stat().st_size
    resident = _resident_kib(str(segment))
    if resident is None or resident <= 8:
        pytest.skip("this kernel does not populate mappings on request (Linux 5.14)")
    assert 48 <= resident <= size // 1024
    for step in range(5_000):  # into the third segment
        log.log({"m": float(step)})
    assert segment.stat().st_size == size
    writer.close()
    reader = FolderReader(writer.folder, sync=False)
    cuts = []
    while found := reader.cut():
        cuts += found
    reader.close()
    assert sum(cut.points for cut in cuts) == 5_001
    assert not any(cut.damage for cut in cuts)


def _resident_kib(path: str) -> int | None:
    """Pages of a mapped file that are present here, None where the system does not tell."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = iter(lines)
    for line in found:
        if line.endswith(path):
            return next(int(one.split()[1]) for one in found if one.startswith("Rss:"))
    return None
