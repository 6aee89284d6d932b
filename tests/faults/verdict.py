"""Compares what was acknowledged with what is stored, by natural key and by sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from faults import ledger
from runwire_consumers.clickhouse.client import connect

_CALLS = f"""
SELECT step, count() AS points, uniqExact(metric) AS names, sum(value) AS total,
    uniqExact(project, run_id, rank, writer_key, seq) AS origins, countIf(value != {ledger.VALUE_SQL}) AS wrong
FROM v_metrics GROUP BY step
"""  # noqa: E501
_ROLLUP = """
SELECT count() FROM (
    SELECT project, run_id, metric, rank, attempt,
        min(step) AS a, max(step) AS b, min(value) AS c, max(value) AS d
    FROM metrics FINAL GROUP BY project, run_id, metric, rank, attempt) AS m
FULL JOIN (
    SELECT project, run_id, metric, rank, attempt, min(r.first_step) AS a, max(r.last_step) AS b,
        min(r.min) AS c, max(r.max) AS d
    FROM metric_rollup AS r GROUP BY project, run_id, metric, rank, attempt) AS r
USING (project, run_id, metric, rank, attempt)
WHERE NOT (m.a = r.a AND m.b = r.b AND m.c = r.c AND m.d = r.d)
"""


@dataclass
class Verdict:
    """Figures of one campaign; `faults` says in words what must not be."""

    accepted: int = 0
    in_flight: int = 0
    stored: int = 0
    lost: int = 0
    duplicates: int = 0
    raw_rows: int = 0
    removed_by_final: int = 0
    inserted_twice: int = 0
    completeness: int = 0
    batches_sum: int = 0
    batches_repeated: int = 0
    rollup_mismatches: int = 0
    texts: int = 0
    params: int = 0
    dead_letters: int = 0
    faults: list[str] = field(default_factory=list)


def judge(url: str, acks: Path) -> Verdict:
    """Read acknowledgements and store, and compare."""
    client = connect(url)
    try:
        verdict = Verdict()
        labels = ledger.acknowledged(acks)
        acked = {step for steps in labels.values() for step in steps}
        allowed = {ledger.in_flight(label, steps) for label, steps in labels.items()}
        _judge_points(client, verdict, acked, allowed)
        judge_tables(client, verdict)
        _judge_events(client, verdict, acked, allowed)
    finally:
        client.close()
    return verdict


def _judge_points(client: Client, verdict: Verdict, acked: set[int], allowed: set[int]) -> None:
    seen: set[int] = set()
    for step, points, names, total, origins, wrong in client.query(_CALLS).result_rows:
        seen.add(step)
        expected = ledger.size_of(step)
        verdict.stored += names
        verdict.duplicates += points - names
        if points != names or origins != 1:
            verdict.faults.append(f"call {step}: {points} rows of {names} points")
        if step in acked:
            verdict.lost += expected - names
        elif step in allowed:
            verdict.in_flight += names
        else:
            verdict.faults.append(f"call {step} was never made")
        if names != expected or total != ledger.checksum(step) or wrong:
            verdict.faults.append(
                f"call {step}: {names} points of sum {total}, not {expected} of "
                f"{ledger.checksum(step)}; {wrong} wrong values"
            )
    for step in acked:
        if ledger.kind_of(step) == ledger.METRIC:
            verdict.accepted += ledger.size_of(step)
            if step not in seen:
                verdict.lost += ledger.size_of(step)
                verdict.faults.append(f"call {step} is lost")


def assert_exactly_once(verdict: Verdict) -> None:
    """Nothing lost, nothing twice, in every way in which it is counted."""
    assert verdict.faults[:20] == []
    assert verdict.stored == verdict.accepted + verdict.in_flight > 0
    assert (verdict.lost, verdict.duplicates) == (0, 0)
    assert (verdict.removed_by_final, verdict.inserted_twice) == (0, 0)
    assert (verdict.batches_sum, verdict.batches_repeated) == (verdict.stored, 0)
    assert verdict.completeness == verdict.stored
    assert (verdict.rollup_mismatches, verdict.dead_letters) == (0, 0)


def judge_tables(client: Client, verdict: Verdict) -> None:
    """Count what the tables hold, merged and unmerged."""
    verdict.raw_rows = _number(client, "SELECT count() FROM metrics")
    final = _number(client, "SELECT count() FROM metrics FINAL")
    verdict.removed_by_final = verdict.raw_rows - final
    verdict.inserted_twice = _number(client, "SELECT sum(n) FROM inserted") - final
    verdict.completeness = _number(client, "SELECT sum(stored) FROM v_completeness")
    verdict.batches_sum = _number(client, "SELECT sum(points) FROM batches FINAL")
    verdict.batches_repeated = _number(client, "SELECT count() FROM batches") - _number(
        client, "SELECT count() FROM batches FINAL"
    )
    verdict.rollup_mismatches = _number(client, _ROLLUP)
    verdict.dead_letters = _number(client, "SELECT count() FROM dead_letters FINAL")


def _judge_events(client: Client, verdict: Verdict, acked: set[int], allowed: set[int]) -> None:
    """Texts and parameters: the same once-and-all rule, by rows."""
    texts = "SELECT assumeNotNull(step), length(text) FROM logs FINAL WHERE name = 'note'"
    params = (
        "SELECT toInt64(substring(key, 2)), toFloat64(value) FROM params FINAL WHERE key LIKE 'p%'"
    )
    for kind, query in ((ledger.TEXT, texts), (ledger.PARAM, params)):
        rows = client.query(query).result_rows
        seen = {step: total for step, total in rows}  # noqa: C416 - rows are tuples of any length
        if len(seen) != len(rows):
            verdict.faults.append(f"{len(rows) - len(seen)} {kind} rows are there twice")
        wanted = {step for step in acked if ledger.kind_of(step) == kind}
        verdict.faults += [f"{kind} {step} is lost" for step in wanted - set(seen)]
        verdict.faults += [f"{kind} {s} was never made" for s in set(seen) - wanted - allowed]
        wrong = [step for step, total in seen.items() if total != ledger.checksum(step)]
        verdict.faults += [f"{kind} {step} is not what was logged" for step in wrong]
        if kind == ledger.TEXT:
            verdict.texts = len(seen)
        else:
            verdict.params = len(seen)
    for table in ("logs", "params", "run_events"):
        raw = _number(client, f"SELECT count() FROM {table}")
        again = raw - _number(client, f"SELECT count() FROM {table} FINAL")
        if again:
            verdict.removed_by_final += again


def _number(client: Client, query: str) -> int:
    found: Any = client.query(query).result_rows[0][0]
    return int(found)
