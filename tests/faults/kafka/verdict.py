"""Compares the ledger of a feed with what is stored, record by record and in sum."""

from __future__ import annotations

from collections.abc import Iterable

from faults.kafka import feed
from faults.kafka.feed import Name
from faults.kafka.pipeline import Pipeline
from faults.verdict import Verdict, judge_tables

_RECORDS = f"""
SELECT rank, intDiv(step, {feed.RECORD_STEPS}) AS number, count() AS points,
    uniqExact(project, run_id, metric, rank, step, writer, seq) AS keys, sum(value) AS total,
    countIf(value != {feed.VALUE_SQL}) AS wrong
FROM metrics FINAL GROUP BY rank, number
"""


def judge(pipeline: Pipeline, accepted: Iterable[Name]) -> Verdict:
    """Read the store and compare it with the records that were acknowledged."""
    verdict = Verdict()
    wanted = set(accepted)
    verdict.accepted = sum(map(feed.points_of, wanted))
    seen: set[Name] = set()
    for rank, number, points, keys, total, wrong in pipeline.client.query(_RECORDS).result_rows:
        name = (rank, number)
        seen.add(name)
        verdict.stored += points
        verdict.duplicates += points - keys
        if name not in wanted:
            verdict.faults.append(f"record {name} was never acknowledged")
            continue
        verdict.lost += feed.points_of(name) - keys
        if (points, total, wrong) != (feed.points_of(name), feed.total_of(name), 0):
            verdict.faults.append(
                f"record {name}: {points} points of sum {total}, {wrong} wrong, not "
                f"{feed.points_of(name)} of {feed.total_of(name)}"
            )
    for name in sorted(wanted - seen):
        verdict.lost += feed.points_of(name)
        verdict.faults.append(f"record {name} is lost")
    judge_tables(pipeline.client, verdict)
    # By a sum as well: merges may have hidden repeated rows of `batches` by now.
    verdict.batches_repeated = pipeline.count(
        "SELECT sum(n) FROM inserted_batches"
    ) - pipeline.count("SELECT count() FROM batches FINAL")
    return verdict
