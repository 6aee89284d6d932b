"""Slow reference of the rows of points: each table of a batch, point by point in plain Python."""

from __future__ import annotations

import math
import random
from typing import Any, NamedTuple

from runwire_consumers.core.batch import decode_ahead
from runwire_consumers.core.source import Record
from runwire_schemas import codec
from runwire_schemas.events import MetricBatch
from runwire_schemas.identity import writer_key
from runwire_schemas.metric_decode import MetricColumns


class Point(NamedTuple):
    """One row of `metrics`, in the order of the table's key."""

    project: str
    run_id: str
    metric: str
    rank: int
    step: int
    writer: int
    seq: int
    attempt: str
    at_ms: int
    value: float


def readable(at_ms: int) -> int:
    while at_ms > (2**63 - 1) // 1_000_000:
        at_ms //= 1000
    return max(at_ms, 0)


def points_of(batch: MetricBatch) -> list[Point]:
    """The points of a batch in the order in which it holds them."""
    calls = zip(batch.call_seq, batch.call_step, batch.call_at_ms, batch.call_n, strict=True)
    expanded = [call for call in calls for _ in range(call[3])]
    return [
        Point(
            *(batch.project, batch.run_id, batch.names[index], batch.rank, step),
            *(writer_key(batch.writer), seq, batch.attempt, readable(at_ms), value),
        )
        for (seq, step, at_ms, _), index, value in zip(
            expanded, batch.name_idx, batch.value, strict=True
        )
    ]


def metric_rows(batches: list[MetricBatch]) -> list[Point]:
    """Rows of `metrics` in the table's order; equal keys keep the order of records."""
    return sorted((p for b in batches for p in points_of(b)), key=lambda point: point[:7])


def rollup_rows(batches: list[MetricBatch]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Rows of `metric_rollup` by key: steps, newest point but for its value, extremes, values.

    The last is the set of values that the newest point may have: it is one of equal instants.
    """
    found: dict[tuple[Any, ...], list[tuple[int, Point]]] = {}
    for batch in batches:
        points = list(enumerate(points_of(batch)))
        for index, point in points:
            place = max(p.at_ms for i, p in points if (p.seq, i) <= (point.seq, index))
            key = (point.project, point.run_id, point.metric, point.rank, point.attempt)
            found.setdefault(key, []).append((place, point))
    rows = {}
    for key, placed in found.items():
        steps = [point.step for _, point in placed]
        finite = [point.value for _, point in placed if math.isfinite(point.value)]
        newest = max((place, p.seq, p.at_ms, p.step) for place, p in placed)
        values = {repr(p.value) for place, p in placed if (place, p.seq, p.at_ms, p.step) == newest}
        extremes = (min(finite), max(finite)) if finite else (None, None)
        rows[key] = (min(steps), max(steps), newest, extremes, values)
    return rows


def batch_rows(batches: list[MetricBatch]) -> list[tuple[Any, ...]]:
    """Rows of `batches` without the stamp and the judgement."""
    rows = []
    for batch in batches:
        points = points_of(batch)
        bounds = [
            bound(getattr(point, field) for point in points)
            for field in ("seq", "step", "at_ms")
            for bound in (min, max)
        ]
        rows.append((batch.run_id, batch.batch_seq, len(points), *bounds))
    return rows


def untidy(batches: list[MetricBatch]) -> list[bool]:
    """Which batches of writers without a gap repeat a step, their own or an earlier one."""
    last: dict[str, dict[str, int] | None] = {}
    verdicts = []
    for batch in batches:
        steps = last.setdefault(batch.writer, {})
        for point in points_of(batch):
            if steps is not None and point.step <= steps.get(point.metric, point.step - 1):
                steps = None
            if steps is not None:
                steps[point.metric] = point.step
        last[batch.writer] = steps
        verdicts.append(steps is None)
    return verdicts


def decoded(batches: list[MetricBatch], rng: random.Random) -> list[MetricColumns]:
    """The batches as the worker gets them: in polls of several partitions."""
    rows: list[MetricColumns] = []
    place = 0
    while place < len(batches):
        polled = batches[place : place + rng.randint(1, 6)]
        place += len(polled)
        records = [
            Record("metric", f"p{rng.randint(0, 2)}", 0, 0, 0, codec.encode(batch))
            for batch in polled
        ]
        found = decode_ahead(records)
        assert None not in found
        rows += [row for row in found if isinstance(row, MetricColumns)]
    return rows


def random_batches(rng: random.Random) -> list[MetricBatch]:
    """Batches of a few writers: some as trainers make them, some as any client may."""
    batches: list[MetricBatch] = []
    writers = [f"w{number}" for number in range(rng.choice([1, 1, 3, 6]))]
    is_wild = rng.random() < 0.5
    many = rng.choice([4, 4, 90])
    state = {writer: [0, 0] for writer in writers}
    for _ in range(rng.choice([1, 3, 12])):
        writer = rng.choice(writers)
        number = int(writer[1:])
        names = [f"train/metric_{i}" for i in range(rng.randint(1, many))] + ["ä"]
        rng.shuffle(names)
        first_seq, batch_seq = state[writer]
        calls = rng.choice([1, 2, 5])
        if is_wild:
            counts = [rng.randint(0, 4) for _ in range(calls)]
            counts[0] += sum(counts) == 0
            indexes = [rng.randrange(len(names)) for _ in range(sum(counts))]
            steps = [rng.randint(-70, 10) for _ in range(calls)]
            seqs = [rng.randint(0, 9) for _ in range(calls)]
            ats = [rng.choice([-5, 7, 10**12, 10**18 * 8, rng.randrange(3)]) for _ in range(calls)]
        else:
            counts = [len(names)] * calls
            indexes = list(range(len(names))) * calls
            steps = [first_seq + call for call in range(calls)]
            seqs, ats = steps, [10**12 + 20 * step for step in steps]
        batches.append(
            MetricBatch(
                project=rng.choice(["p", "q"]) if is_wild else "p",
                run_id=f"run-{number % 2}",
                attempt=f"attempt-{number % 3}",
                writer=writer,
                rank=number % 2,
                batch_seq=batch_seq,
                names=names,
                call_seq=seqs,
                call_step=steps,
                call_at_ms=ats,
                call_n=counts,
                name_idx=indexes,
                value=[
                    rng.choice([rng.gauss(0, 1), math.nan, math.inf, -math.inf, -0.0])
                    if is_wild
                    else rng.gauss(0, 1)
                    for _ in indexes
                ],
            )
        )
        state[writer] = [first_seq + calls, batch_seq + 1]
    return batches
