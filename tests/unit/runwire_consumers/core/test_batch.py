"""Batches: their limits, their spans and the origins of their rows."""

from __future__ import annotations

from runwire_consumers.core.batch import BatchLimits, OpenBatches, decode_record
from runwire_consumers.core.clock import MemoryClock
from runwire_consumers.core.errors import Rejection
from runwire_consumers.core.source import Span
from support.builders import AT_NS, batch_of, metric_record, param_event, record, run_event


def test_batch_age_counts_from_the_close_of_the_last_round() -> None:
    """News after a quiet spell is due at once, news right after a close waits for the age limit."""
    clock = MemoryClock()
    builder = OpenBatches(BatchLimits(age_s=1.0), clock, lambda partition: partition)
    assert (builder.is_due, builder.left_s) == (False, 1.0)
    first, second = metric_record(0), metric_record(1)
    builder.add(first, decode_record(first))
    assert builder.is_due
    builder.close()
    clock.advance(0.75)
    assert (builder.is_due, builder.left_s) == (False, 1.0)
    builder.add(second, decode_record(second))
    assert (builder.is_due, builder.left_s) == (False, 0.25)
    clock.advance(0.25)
    assert builder.is_due


def test_batch_is_due_when_rows_or_bytes_reach_the_limit() -> None:
    """A limit of rows or bytes that is reached exactly closes the batch, one below does not."""
    item = metric_record(0, calls=5)
    for limits in (BatchLimits(rows=10), BatchLimits(bytes=len(item.value))):
        builder = OpenBatches(limits, MemoryClock(), lambda partition: partition)
        builder.close()  # from here on the age counts
        assert not builder.is_due
        builder.add(item, decode_record(item))
        assert builder.is_due
    limits = BatchLimits(rows=11, bytes=len(item.value) + 1)
    builder = OpenBatches(limits, MemoryClock(), lambda partition: partition)
    builder.close()
    builder.add(item, decode_record(item))
    assert not builder.is_due


def test_batch_spans_and_watermark_cover_all_records() -> None:
    """Per partition the span is first to last offset; the newest append time counts."""
    batch = batch_of(
        [
            metric_record(0, calls=3),
            metric_record(3, calls=2),
            record(run_event(), 8, append_at_ns=AT_NS + 5),
            record(param_event(), 9, partition=f"{run_event().writer}/run"),
        ]
    )
    assert dict(batch.spans) == {
        "p/metric": Span(0, 4),
        f"{run_event().writer}/run": Span(8, 9),
    }
    assert (batch.append_at_ns, batch.points, batch.rows) == (AT_NS + 5, 10, 12)


def test_rejected_rows_become_letters_with_their_origin() -> None:
    """`without` moves exactly the named rows to the dead letters and keeps lists parallel."""
    batch = batch_of([metric_record(0), metric_record(1), metric_record(2), record(run_event(), 0)])
    rest = batch.without([Rejection("metric", 1, "no"), Rejection("run", 0, "nor this")])
    assert [int(columns.seq[0]) for columns in rest.metrics] == [0, 2]
    assert [item.offset for item in rest.origins["metric"]] == [0, 2]
    assert (rest.events["run"], rest.origins["run"]) == ([], [])
    assert [(letter.stream, letter.points) for letter in rest.dead] == [("metric", 2), ("run", 0)]
    assert (rest.token, rest.spans) == (batch.token, batch.spans)
