"""Points as the engine stores them, against a slow reference in plain Python."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.core.batch import BatchBuilder, decode_ahead
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.pieces import WHOLE, Pieces
from runwire_schemas.events import MetricBatch
from runwire_schemas.identity import attempt_key
from support.builders import record
from unit.runwire_consumers.clickhouse import points_reference as reference

pytestmark = pytest.mark.engine

POINTS = """
SELECT project, run_id, metric, rank, step, writer, seq, attempt, toUnixTimestamp64Milli(at), value
FROM metrics
"""
BATCHES = """
SELECT run_id, batch_seq, points, first_seq, last_seq, first_step, last_step,
    toUnixTimestamp64Milli(first_at), toUnixTimestamp64Milli(last_at)
FROM batches
"""
ROLLUP = """
SELECT project, run_id, metric, rank, attempt, first_step, last_step,
    toUnixTimestamp64Milli(newest.place_at), newest.seq, toUnixTimestamp64Milli(newest.at),
    newest.step, min, max
FROM metric_rollup
"""


def shown(rows: list[tuple[Any, ...]]) -> list[str]:
    """Rows as sorted text, in which NaN equals itself."""
    return sorted(repr(tuple(row)) for row in rows)


def expected_points(batches: list[MetricBatch]) -> list[tuple[Any, ...]]:
    rows = reference.metric_rows(batches)
    return [(*row[:7], attempt_key(row.attempt), row.at_ms, row.value) for row in rows]


def expected_rollup(batches: list[MetricBatch]) -> list[tuple[Any, ...]]:
    rows = reference.rollup_rows(batches).items()
    return [
        (*key[:4], attempt_key(key[4]), first, last, *newest, *extremes)
        for key, (first, last, newest, extremes, _) in rows
    ]


@pytest.mark.parametrize("pieces", [WHOLE, WHOLE.cut("metrics", 0, 7)], ids=["whole", "pieces"])
def test_stored_rows_equal_the_slow_reference(
    clickhouse_url: str, seed: int, pieces: Pieces
) -> None:
    """Every column of every row, of batches as trainers make them and as any client may."""
    client, sink = connect(clickhouse_url), ClickHouseSink(clickhouse_url)
    for table in ("metrics", "batches", "metric_rollup"):
        client.command(f"SYSTEM STOP MERGES {table}")
    for number in range(8):
        rng = random.Random(f"{seed} stored {number}")
        batches = reference.random_batches(rng)
        records = [record(batch, offset) for offset, batch in enumerate(batches)]
        builder = BatchBuilder()
        for item, decoded in zip(records, decode_ahead(records), strict=True):
            assert decoded is not None
            builder.add(item, decoded)
        sink.write(replace(builder.close(f"w:{number}"), pieces=pieces))
        found = [client.query(query).result_rows for query in (POINTS, BATCHES, ROLLUP)]
        assert shown(list(found[0])) == shown(expected_points(batches))
        assert shown(list(found[1])) == shown(reference.batch_rows(batches))
        assert shown(list(found[2])) == shown(expected_rollup(batches))
        for table in ("metrics", "batches", "metric_rollup"):
            client.command(f"TRUNCATE TABLE {table}")
    sink.close(Deadline(1))
    client.close()
