"""Synthetic history of many runs, written into the base tables by the engine itself.

The shape is that of a team after a few weeks: 22 projects, runs of 100 metrics and 60 steps, of
which some are live, one in 20 was restarted and one in 50 has 8 ranks; beside them runs of special
size, which are the same whatever the size of the history, so that a question about one of them
must cost the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

PROJECTS: Final = 22
METRICS, STEPS = 100, 60
POINTS_OF_A_RUN: Final = METRICS * STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much history: runs of the usual size, live ones among them, and the longest curve."""

    runs: int
    live: int
    longest: int
    curve_metrics: int
    wide_metrics: int
    ranks: int


# project, run_id, ranks, metrics, steps, attempts, live, step_ms, batches
SPECIAL: Final = """
SELECT 'project-00', concat('curve-', leftPad(toString(number), 2, '0')), 1 AS ranks,
    {curve_metrics} AS metrics, 5000 AS steps, 1 AS attempts, 0 AS live, 1000 AS step_ms,
    500 AS batches, number FROM numbers(20)
UNION ALL SELECT 'project-00', 'restarted', 1, 1, 5000, 2, 0, 1000, 500, 20
UNION ALL SELECT 'project-00', 'wide', 1, {wide_metrics}, 100, 1, 0, 1000, 100, 21
UNION ALL SELECT 'project-00', 'million', 1, 1, 1000000, 1, 0, 100, 10000, 22
UNION ALL SELECT 'project-00', 'longest', 1, 1, {longest}, 1, 0, 10, 10000, 23
UNION ALL SELECT 'project-00', 'ranks', {ranks}, 1, 60, 1, 0, 1000, 60, 24
"""
USUAL: Final = """
SELECT concat('project-', leftPad(toString(number % 22), 2, '0')),
    concat('run-', lower(hex(sipHash64(number)))), if(number % 50 = 3, 8, 1), {metrics} AS metrics,
    {steps} AS steps, if(number % 20 = 7, 2, 1), number < {live}, 10000 AS step_ms, 60 AS batches,
    number + 100
FROM numbers({first}, {count})
"""
PLAN: Final = (
    """
CREATE TABLE scale_runs (
    project LowCardinality(String), run_id String, ranks UInt32, metrics UInt32, steps UInt32,
    attempts UInt8, live UInt8, step_ms UInt32, batches UInt32, number UInt64,
    ended DateTime64(3, 'UTC')
) ENGINE = MergeTree ORDER BY number""",
    """
CREATE TABLE scale_writers (
    project LowCardinality(String), run_id String, number UInt32, rank Int32, world UInt32,
    series UInt32, attempt UInt8, attempts UInt8, live Bool, attempt_key UInt64, writer_key UInt64,
    first_step Int64, last_step Int64, step_ms Int64, batches Int64,
    started DateTime64(3, 'UTC'), ended DateTime64(3, 'UTC')
) ENGINE = MergeTree ORDER BY number""",
)
OF_FILL: Final = "number >= {first} AND number < {end}"
# One row per process: the second attempt of a restarted run goes on from two thirds.
WRITERS: Final = f"""
INSERT INTO scale_writers
SELECT project, run_id, number, rank, ranks, if(rank = 0, metrics, 1), attempt, attempts,
    live AND attempt = attempts, sipHash64('attempt', number, attempt),
    sipHash64('writer', number, attempt, rank),
    toInt64(if(attempt = 1, 0, intDiv(steps * 2, 3) - 5)) AS first_step,
    toInt64(if(attempt = attempts, steps - 1, intDiv(steps * 2, 3))) AS last_step, step_ms,
    if(attempt = attempts, batches, intDiv(batches * 2, 3)),
    over - toIntervalMillisecond(step_ms * (last_step - first_step + 1)),
    if(attempt = attempts, ended, ended - toIntervalMillisecond(step_ms * steps)) AS over
FROM scale_runs
ARRAY JOIN range(1, attempts + 1) AS attempt
ARRAY JOIN range(ranks) AS rank
WHERE {OF_FILL}"""
METRIC_NAME: Final = (
    "if(m = 0, 'train/loss', concat('layer-', leftPad(toString(m), 5, '0'), '/norm'))"
)
FILL: Final = {
    "metrics": f"""
INSERT INTO metrics (project, run_id, metric, rank, attempt, writer, step, seq, at, value)
SELECT project, run_id, {METRIC_NAME}, rank, attempt_key, writer_key, step, step,
    started + toIntervalMillisecond(step_ms * (step - first_step)),
    if(sipHash64(number, m, step) % 1000000 = 7, nan,
        10 / (1 + step) + (sipHash64(m, step) % 1000) / 1000)
FROM scale_writers
ARRAY JOIN range(series) AS m
ARRAY JOIN range(first_step, last_step + 1, 50000) AS piece
ARRAY JOIN range(toInt64(piece), toInt64(least(piece + 50000, last_step + 1))) AS step
WHERE {OF_FILL}""",
    # Extremes are those of two points: to find all of 10^8 takes longer than to write them.
    "metric_rollup": f"""
INSERT INTO metric_rollup
    (project, run_id, metric, rank, attempt, first_step, last_step, newest, min, max)
SELECT project, run_id, {METRIC_NAME}, rank, attempt_key, first_step, last_step,
    (ended, ended, last_step, ended, last_step, 10 / (1 + last_step)), 10 / (1 + last_step),
    10 / (1 + first_step)
FROM scale_writers ARRAY JOIN range(series) AS m
WHERE {OF_FILL}""",
    "batches": f"""
INSERT INTO batches (project, run_id, rank, attempt, writer, batch_seq, points, first_seq, last_seq,
    first_step, last_step, first_at, last_at, untidy, append_at)
SELECT project, run_id, rank, attempt_key, writer_key, b,
    series * (s_last - s_first + 1) AS points, s_first, s_last, s_first, s_last,
    started + toIntervalMillisecond(step_ms * (s_first - first_step)) AS from_at,
    started + toIntervalMillisecond(step_ms * (s_last - first_step)) AS to_at, false, to_at
FROM (
    SELECT *, b, first_step + intDiv((last_step - first_step + 1) * b, batches) AS s_first,
        first_step + intDiv((last_step - first_step + 1) * (b + 1), batches) - 1 AS s_last
    FROM scale_writers ARRAY JOIN range(batches) AS b
    WHERE {OF_FILL}
)""",
    "writer_progress": f"""
INSERT INTO writer_progress
    (project, run_id, rank, attempt, writer, last_step, last_at, untidy, append_at, whole,
    last_batch_seq)
SELECT project, run_id, rank, attempt_key, writer_key, last_step, ended, 0, ended,
    (batches, series * (last_step - first_step + 1)), batches - 1
FROM scale_writers WHERE {OF_FILL}""",
    "attempts": f"""
INSERT INTO attempts
    (project, run_id, attempt, first_at, first_step, last_step, heard_at, heard_to, active_to)
SELECT project, run_id, attempt_key, min(started), min(first_step), max(last_step), min(started),
    max(ended), max(ended)
FROM scale_writers WHERE {OF_FILL} GROUP BY project, run_id, attempt_key""",
    "untidy_writers": f"""
INSERT INTO untidy_writers (project, run_id, rank, writer)
SELECT project, run_id, rank, writer_key FROM scale_writers WHERE attempts > 1 AND {OF_FILL}""",
    "run_events": f"""
INSERT INTO run_events (project, run_id, rank, attempt, attempt_name, writer, writer_name, reporter,
    seq, at, append_at, event, status, status_reason, name, `group`, has_tags, tags, world_size,
    resumed_from_step, accepted, has_environment, environment, summary, attempt_number,
    first_attempt, last_step)
SELECT project, run_id, rank, attempt_key, toString(attempt_key), writer_key, toString(writer_key),
    '', if(is_end, 1000000, 1), if(is_end, ended, started) AS said, said,
    if(is_end, 'finished', 'started'),
    multiIf(NOT is_end, 'running', attempt < attempts, 'killed', number % 10 = 9, 'failed',
        'finished'),
    if(is_end AND number % 10 = 9, 'ValueError: a value', NULL),
    if(rank = 0, concat('name-', toString(number)), NULL),
    concat('group-', toString(number % 40)),
    NOT is_end, map('team', toString(number % 7), 'kind', 'usual'), 1,
    if(attempt > 1 AND NOT is_end, first_step, NULL),
    if(is_end, series * (last_step - first_step + 1), NULL), NOT is_end AND rank = 0,
    if(is_end OR rank > 0, map(), map('python', '3.12.1', 'gpu', 'H200', 'git', repeat('c', 1500))),
    if(is_end, '{{"loss": 0.5}}', NULL), attempt, toString(sipHash64('attempt', number, 1)),
    if(is_end, last_step, NULL)
FROM scale_writers ARRAY JOIN if(live, [false], [false, true]) AS is_end
WHERE {OF_FILL}""",
    "heartbeats": f"""
INSERT INTO heartbeats (project, run_id, rank, attempt, writer, writer_name, seq, at, append_at,
    last_step, last_progress_at, phase, accepted, dropped, host, pid, spool_bytes)
SELECT project, run_id, rank, attempt_key, writer_key, toString(writer_key), 10 - k,
    ended - toIntervalSecond(k * 60) AS said, said, last_step - k, said, 'train',
    greatest(0, series * (last_step - first_step + 1) - k * series), map(),
    concat('host-', toString(number % 60)), 100, 0
FROM scale_writers ARRAY JOIN range(6) AS k
WHERE {OF_FILL}""",
    "params": f"""
INSERT INTO params (project, run_id, rank, attempt, writer, seq, at, append_at, key, value)
SELECT project, run_id, 0, attempt_key, writer_key, k, started, started,
    if(k = 0, 'lr', concat('option-', toString(k))), toString((number * k) % 17)
FROM scale_writers ARRAY JOIN range(50) AS k
WHERE rank = 0 AND {OF_FILL}""",
    "logs": f"""
INSERT INTO logs (project, run_id, rank, attempt, writer, seq, at, append_at, step, stream, name,
    level, text)
SELECT project, run_id, rank, attempt_key, writer_key, k,
    ended - toIntervalMillisecond(k * 100) AS said, said, last_step,
    multiIf(k % 60 = 59, 'histogram', k % 4 = 0, 'stderr', 'stdout'),
    if(k % 60 = 59, 'weights', ''),
    if(k % 100 = 0, 'warning', 'info'),
    if(k % 60 = 59, '{{"edges": [0.0, 1.0, 2.0], "counts": [5, 6]}}',
        concat('epoch ', toString(k), ' loss ', toString(sipHash64(number, k) % 100000)))
FROM scale_writers ARRAY JOIN range(if(run_id = 'ranks', 20, 360)) AS k
WHERE {OF_FILL}""",
    "checkpoints": f"""
INSERT INTO checkpoints (project, run_id, rank, attempt, writer, seq, at, append_at, artifact, kind,
    sha256, uri, step, world_size, bytes, raw_bytes, duration_s, blocked_s, metrics, is_best)
SELECT project, run_id, rank, attempt_key, writer_key, k,
    started + toIntervalMillisecond(step_ms * k * 3) AS said, said,
    hex(sipHash64('checkpoint', writer_key, k)), if(world > 1, 'sharded', 'full'),
    hex(sipHash64('content', writer_key, k)), concat('/data/', run_id, toString(k)),
    first_step + k * 3, world, 1000000, 1200000, 1.5, 0.1, map('loss', 1. / (1 + k)), k % 7 = 0
FROM scale_writers
ARRAY JOIN range(
    toUInt64(least(if(run_id = 'ranks', 2, 20), intDiv(last_step - first_step + 3, 3)))) AS k
WHERE {OF_FILL}""",
    "artifacts": f"""
INSERT INTO artifacts (project, run_id, rank, attempt, writer, seq, at, append_at, artifact, event,
    name, type, has_aliases, aliases, metadata, files, bytes, sha256, uri, route, version_at_ns,
    reason, duration_s)
SELECT project, run_id, rank, attempt, writer, toInt64(seq * 3 + e),
    at + toIntervalSecond(e) AS said, said, artifact, ['logged', 'shipped', 'complete'][e + 1],
    name, type, e = 0, aliases, if(e = 0, '{{"epoch": 1}}', ''), 1, bytes,
    if(e = 2, sha256, ''), if(e = 2, concat('s3://bucket/', artifact), ''), 'direct',
    if(e = 2, toUnixTimestamp64Nano(toDateTime64(said, 9)) + sipHash64(artifact) % 1000000, NULL),
    NULL, if(e = 2, 1.5, NULL)
FROM (
    SELECT project, run_id, rank, attempt, writer, seq, at, artifact, bytes, sha256,
        concat('checkpoint-', lower(hex(sipHash64(run_id)))) AS name, 'checkpoint' AS type,
        CAST([], 'Array(String)') AS aliases
    FROM checkpoints
    WHERE (project, run_id) IN (SELECT project, run_id FROM scale_runs WHERE {OF_FILL})
    UNION ALL
    SELECT project, run_id, 0, attempt_key, writer_key, 900, ended,
        hex(sipHash64('model', writer_key)), 5000000, hex(sipHash64('weights', writer_key)),
        concat('model-', toString(number % 500)), 'model', ['candidate']
    FROM scale_writers WHERE rank = 0 AND attempt = attempts AND {OF_FILL}
) ARRAY JOIN range(if(sipHash64(artifact) % 500 = 0, 1, 3)) AS e""",
    "uses": f"""
INSERT INTO artifacts (project, run_id, rank, attempt, writer, seq, at, append_at, artifact, event,
    name, type, has_aliases, aliases, metadata, files, bytes, sha256, uri, route, version_at_ns,
    reason, duration_s)
SELECT u.project, u.run_id, 0, u.attempt_key, u.writer_key, 2000, u.started, u.started,
    hex(sipHash64('model', o.writer_key)), 'used', concat('model-', toString(o.number % 500)),
    'model', false, [], '', 1, 5000000, hex(sipHash64('weights', o.writer_key)), '', '',
    NULL, NULL, NULL
FROM scale_writers AS u
INNER JOIN scale_writers AS o ON o.number = u.number - {PROJECTS}
WHERE u.rank = 0 AND u.attempt = 1 AND o.rank = 0 AND o.attempt = o.attempts
    AND u.number >= {{first}} AND u.number < {{end}} AND u.number >= 122""",
}
INSERT_SETTINGS: Final = {
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 1_048_576,
    "min_insert_block_size_bytes": 0,
    "max_execution_time": 0,
    "optimize_on_insert": 0,
    "optimize_aggregation_in_order": 1,
    "max_partitions_per_insert_block": 0,
}


def prepare(client: Any, size: Size) -> None:
    """Plan the runs of special size and write them."""
    for statement in PLAN:
        client.command(statement)
    special = SPECIAL.format(
        curve_metrics=size.curve_metrics,
        wide_metrics=size.wide_metrics,
        longest=size.longest,
        ranks=size.ranks,
    )
    client.command(
        "INSERT INTO scale_runs SELECT *, now64(3) - toIntervalHour(2 + (c10 % 25)) "
        f"FROM (SELECT * FROM ({special})) AS s (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10)"
    )
    _write(client, 0, 100)


def extend(client: Any, first: int, size: Size) -> None:
    """Write the usual runs from number `first` on, up to the size; the first ones are live."""
    usual = USUAL.format(
        metrics=METRICS, steps=STEPS, live=size.live, first=first, count=size.runs - first
    )
    client.command(
        "INSERT INTO scale_runs SELECT *, "
        "if(c7 > 0, now64(3) - toIntervalMillisecond(c10 % 5000), now64(3) - toIntervalHour(1) "
        "- toIntervalSecond(c10 * 259)) "
        f"FROM (SELECT * FROM ({usual})) AS s (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10)"
    )
    _write(client, first + 100, size.runs + 100)


def _write(client: Any, first: int, end: int) -> None:
    for statement in (WRITERS, *FILL.values()):
        filled = statement.replace("{first}", str(first)).replace("{end}", str(end))
        client.command(filled, settings=INSERT_SETTINGS)
