-- Attempts in the order in which their trainers counted them, never in the order of trainers' clocks,
-- and points abandoned per metric and rank. See 0001 for the rules of tables, 0003 for those of views.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.

ALTER TABLE {database}.run_events {on_cluster}
    ADD COLUMN IF NOT EXISTS attempt_number Nullable(Int64),
    ADD COLUMN IF NOT EXISTS first_attempt String;

-- `chain` and `number` are what the trainers counted: attempts of one chain come in the order of their
-- numbers. '1:' is before a chain that a trainer named, '0:' before an attempt that counts alone.
-- `heard_at` and `heard_to` are by the pipeline's clock, `active_to` by the trainer's: what its own
-- processes said last.
ALTER TABLE {database}.attempts {on_cluster}
    ADD COLUMN IF NOT EXISTS chain SimpleAggregateFunction(max, String),
    ADD COLUMN IF NOT EXISTS number SimpleAggregateFunction(max, Int64),
    ADD COLUMN IF NOT EXISTS heard_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))),
    ADD COLUMN IF NOT EXISTS heard_to SimpleAggregateFunction(max, Nullable(DateTime64(3, 'UTC'))),
    ADD COLUMN IF NOT EXISTS active_to SimpleAggregateFunction(max, Nullable(DateTime64(3, 'UTC')));

ALTER TABLE {database}.attempts_of_events_mv {on_cluster} MODIFY QUERY
SELECT
    any(project) AS project, run_key, any(run_id) AS run_id, attempt, max(attempt_name) AS attempt_name,
    minOrNullIf(at, event = 'started') AS started_at,
    min(toNullable(at)) AS first_at,
    max(resumed_from_step) AS resumed_from_step,
    max(if(e.first_attempt = '', concat('0:', e.attempt_name), concat('1:', e.first_attempt))) AS chain,
    max(ifNull(attempt_number, 1)) AS number,
    min(toNullable(append_at)) AS heard_at,
    max(toNullable(append_at)) AS heard_to,
    maxOrNullIf(at, reporter = '') AS active_to
FROM {database}.run_events AS e
GROUP BY run_key, attempt;

ALTER TABLE {database}.attempts_of_batches_mv {on_cluster} MODIFY QUERY
SELECT
    any(project) AS project, run_key, any(run_id) AS run_id, attempt,
    min(toNullable(first_at)) AS first_at,
    min(toNullable(first_step)) AS first_step,
    max(toNullable(last_step)) AS last_step,
    min(toNullable(append_at)) AS heard_at,
    max(toNullable(append_at)) AS heard_to,
    max(toNullable(last_at)) AS active_to
FROM {database}.batches
GROUP BY run_key, attempt;

-- What was stored before this migration; a repeat changes no aggregate.
INSERT INTO {database}.attempts (project, run_key, run_id, attempt, chain, number, heard_at, heard_to, active_to)
SELECT
    any(project), run_key, any(run_id), attempt, max(concat('0:', attempt_name)), 1,
    min(toNullable(append_at)), max(toNullable(append_at)), maxOrNullIf(at, reporter = '')
FROM {database}.run_events
GROUP BY run_key, attempt;

INSERT INTO {database}.attempts (project, run_key, run_id, attempt, heard_at, heard_to, active_to)
SELECT
    any(project), run_key, any(run_id), attempt,
    min(toNullable(append_at)), max(toNullable(append_at)), max(toNullable(last_at))
FROM {database}.batches
GROUP BY run_key, attempt;

-- The newest point of a series: the one the pipeline heard last; `place_at` never steps back within the
-- calls of a writer, whose clock may.
ALTER TABLE {database}.metric_rollup {on_cluster}
    ADD COLUMN IF NOT EXISTS newest
        SimpleAggregateFunction(max, Tuple(
            append_at DateTime64(3, 'UTC'), place_at DateTime64(3, 'UTC'), seq Int64, at DateTime64(3, 'UTC'),
            step Int64, value Float64))
        DEFAULT (last.1, last.1, last.2, last.1, last.3, last.4);

-- Runs of which the views have to number attempts and find abandoned points; all others have one.
CREATE OR REPLACE VIEW {database}.restarted_runs {on_cluster} AS
SELECT run_key FROM {database}.attempts GROUP BY run_key HAVING uniqExact(attempt) > 1;

-- Attempts are numbered in the order in which the pipeline heard of them; of those that trainers counted
-- a later one comes after an earlier one, whatever arrived first.
-- `replaced_by` is the first later attempt that started when this one had ended: from there on later
-- attempts abandon points of this one. 0: there is none, so all that was logged counts. An attempt that
-- was active (by its own clock, and as the pipeline heard it) after another's start was alive beside it.
CREATE OR REPLACE VIEW {database}.v_attempts {on_cluster} AS
SELECT
    project, run_id, run_key, attempt_key, attempt_name, attempt,
    assumeNotNull(coalesce(said_start_at, first_at, heard_at)) AS started_at,
    resumed_from_step, first_step, last_step,
    -- No point up to this step is abandoned; v_metrics says it for each point beyond.
    if(replaced_by = 0, 9223372036854775807, ifNull(first_step_after - 1, 9223372036854775807)) AS counts_to_step,
    arrayFirst(other -> other.2 >= active_to OR other.3 >= heard_to, later).1 AS replaced_by,
    ifNull(active_before > said_start_at AND heard_before > heard_at, 0) AS is_beside
FROM
(
    SELECT
        *,
        -- More than 64 that started while one lived are helpers of it: they replace nothing.
        groupArray((attempt, said_start_at, heard_at)) OVER (
            PARTITION BY project, run_id, run_key ORDER BY attempt
            ROWS BETWEEN 1 FOLLOWING AND 64 FOLLOWING) AS later,
        min(first_step) OVER (
            PARTITION BY project, run_id, run_key ORDER BY attempt
            ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS first_step_after,
        max(active_to) OVER (
            PARTITION BY project, run_id, run_key ORDER BY attempt
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS active_before,
        max(heard_to) OVER (
            PARTITION BY project, run_id, run_key ORDER BY attempt
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS heard_before
    FROM
    (
        SELECT
            *,
            toInt32(row_number() OVER (
                PARTITION BY project, run_id, run_key
                ORDER BY place_at, chain_place_at, chain, number, heard_at, said_start_at, attempt_key)) AS attempt
        FROM
        (
            SELECT
                *,
                max(heard_at) OVER (PARTITION BY project, run_id, run_key, chain ORDER BY number) AS place_at,
                min(said_start_at) OVER (PARTITION BY project, run_id, run_key, chain) AS chain_place_at
            FROM
            (
                SELECT
                    project, run_id, run_key, attempt AS attempt_key,
                    max(a.attempt_name) AS attempt_name,
                    max(a.chain) AS chain,
                    max(a.number) AS number,
                    min(a.started_at) AS said_start_at,
                    min(a.first_at) AS first_at,
                    min(a.heard_at) AS heard_at,
                    max(a.heard_to) AS heard_to,
                    max(a.active_to) AS active_to,
                    max(a.resumed_from_step) AS resumed_from_step,
                    min(a.first_step) AS first_step,
                    max(a.last_step) AS last_step
                FROM {database}.attempts AS a
                WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
                GROUP BY project, run_id, run_key, attempt_key
            )
        )
    )
);

-- From `limit_step` on, the points of a series that this attempt logged are abandoned: the first step
-- at which an attempt from `replaced_by` on logged the same metric of the same rank. Of runs with one
-- attempt, which have no limits, this lists nothing.
CREATE OR REPLACE VIEW {database}.series_limits {on_cluster} AS
SELECT
    project, run_id, run_key, metric, metric_id, rank, one.1 AS attempt_key, one.2 AS attempt,
    arrayMin(arrayMap(other -> if(one.3 = 0 OR other.2 < one.3, 9223372036854775807, other.4), logged)) AS limit_step
FROM
(
    SELECT
        r.project AS project, r.run_id AS run_id, r.run_key AS run_key, r.metric AS metric,
        r.metric_id AS metric_id, r.rank AS rank,
        groupArray((r.attempt, a.attempt, a.replaced_by, r.first_step)) AS logged
    FROM
    (
        SELECT project, run_id, run_key, metric, metric_id, rank, attempt, min(s.first_step) AS first_step
        FROM {database}.metric_rollup AS s
        WHERE run_key IN (SELECT run_key FROM {database}.restarted_runs)
        GROUP BY project, run_id, run_key, metric, metric_id, rank, attempt
    ) AS r
    INNER JOIN {database}.v_attempts AS a
        ON a.run_id = r.run_id AND a.run_key = r.run_key AND a.attempt_key = r.attempt
    GROUP BY project, run_id, run_key, metric, metric_id, rank
)
ARRAY JOIN logged AS one;

-- Every accepted point once. Only runs with writers in untidy_writers, where the sink notes all those of
-- restarted runs, can have attempts other than 1 and abandoned points.
CREATE OR REPLACE VIEW {database}.v_metrics {on_cluster} AS
SELECT
    -- Never true, but of a column: a constant in a filter would keep the indexes from being used.
    project, run_id, metric, rank, toInt32(is_abandoned + 1) AS attempt, step, seq, at, value,
    rank < -2147483648 AS is_abandoned, run_key, metric_id, attempt AS attempt_key, writer AS writer_key
FROM {database}.metrics FINAL
WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
    AND run_key NOT IN (SELECT run_key FROM {database}.untidy_writers)
SETTINGS use_skip_indexes_if_final_exact_mode = 0
UNION ALL
SELECT
    m.project AS project, m.run_id AS run_id, m.metric AS metric, m.rank AS rank,
    toInt32(greatest(l.attempt, 1)) AS attempt, m.step AS step, m.seq AS seq, m.at AS at, m.value AS value,
    (l.attempt > 0 AND m.step >= l.limit_step) AS is_abandoned,
    m.run_key AS run_key, m.metric_id AS metric_id, m.attempt AS attempt_key, m.writer AS writer_key
FROM {database}.metrics AS m FINAL
LEFT JOIN {database}.series_limits AS l
    ON l.run_id = m.run_id AND l.run_key = m.run_key AND l.metric_id = m.metric_id AND l.rank = m.rank
    AND l.attempt_key = m.attempt
WHERE m.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
    AND m.run_key IN (SELECT run_key FROM {database}.untidy_writers)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

-- One value per step: of the points that are not abandoned, the last written one. Two attempts have a
-- step in common only where they lived beside each other: there the earlier one is shown.
CREATE OR REPLACE VIEW {database}.v_series {on_cluster} AS
SELECT
    project, run_id, metric, rank, step, value, at, toInt32((rank < -2147483648) + 1) AS attempt, run_key, metric_id
FROM {database}.metrics FINAL
WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
    AND run_key NOT IN (SELECT run_key FROM {database}.untidy_writers)
SETTINGS use_skip_indexes_if_final_exact_mode = 0
UNION ALL
SELECT
    project, run_id, metric, rank, step, written.1 AS value, written.2 AS at, written.3 AS attempt, run_key, metric_id
FROM
(
    SELECT
        m.project AS project, m.run_id AS run_id, m.metric AS metric, m.rank AS rank, m.step AS step,
        m.run_key AS run_key, m.metric_id AS metric_id,
        argMax((m.value, m.at, toInt32(greatest(l.attempt, 1))), (-l.attempt, m.seq, m.at)) AS written
    FROM {database}.metrics AS m FINAL
    LEFT JOIN {database}.series_limits AS l
        ON l.run_id = m.run_id AND l.run_key = m.run_key AND l.metric_id = m.metric_id AND l.rank = m.rank
        AND l.attempt_key = m.attempt
    WHERE m.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
        AND m.run_key IN (SELECT run_key FROM {database}.untidy_writers)
            AND NOT (l.attempt > 0 AND m.step >= l.limit_step)
    GROUP BY project, run_id, metric, rank, run_key, metric_id, step
    SETTINGS use_skip_indexes_if_final_exact_mode = 0
);

-- The newest point, and the extremes of the finite ones, over all attempts.
CREATE OR REPLACE VIEW {database}.v_latest {on_cluster} AS
SELECT
    r.project AS project, r.run_id AS run_id, r.metric AS metric, r.rank AS rank,
    max((a.attempt, r.newest)) AS newest,
    newest.2.5 AS step,
    least(newest.2.4, toDateTime64('2262-01-01 00:00:00', 3, 'UTC')) AS at,
    newest.2.6 AS value,
    min(r.min) AS min, max(r.max) AS max,
    min(r.first_step) AS first_step, max(r.last_step) AS last_step,
    r.run_key AS run_key, r.metric_id AS metric_id
FROM {database}.metric_rollup AS r
LEFT JOIN {database}.v_attempts AS a
    ON a.run_id = r.run_id AND a.run_key = r.run_key AND a.attempt_key = r.attempt
WHERE r.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
GROUP BY project, run_id, run_key, metric, metric_id, rank;

-- The last value that was logged: by the latest attempt, in the order in which its writer counted.
CREATE OR REPLACE VIEW {database}.v_params {on_cluster} AS
SELECT
    w.project AS project, w.run_id AS run_id, w.key AS key,
    argMax(w.said.1, (a.attempt, w.said.2, w.said.3)) AS value,
    max(w.said.3) AS at, w.run_key AS run_key
FROM
(
    SELECT
        project, run_id, run_key, key, attempt AS attempt_key, argMax((p.value, p.append_at, p.at), p.seq) AS said
    FROM {database}.params AS p
    WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
    GROUP BY project, run_id, run_key, key, attempt_key, writer
) AS w
LEFT JOIN {database}.v_attempts AS a
    ON a.run_id = w.run_id AND a.run_key = w.run_key AND a.attempt_key = w.attempt_key
GROUP BY project, run_id, run_key, key;

-- Like series_limits: a checkpoint is abandoned where a later attempt saved that step or an earlier one,
-- or resumed from an earlier checkpoint.
CREATE OR REPLACE VIEW {database}.checkpoint_limits {on_cluster} AS
SELECT
    project, run_id, run_key, one.1 AS attempt_key, one.2 AS attempt,
    arrayMin(arrayMap(other -> if(one.3 = 0 OR other.2 < one.3, 9223372036854775807, other.4), saved)) AS limit_step
FROM
(
    SELECT
        a.project AS project, a.run_id AS run_id, a.run_key AS run_key,
        groupArray((a.attempt_key, a.attempt, a.replaced_by, least(
            if(c.steps = 0, 9223372036854775807, c.first_step),
            if((a.run_key, a.resumed_from_step) IN (SELECT run_key, toNullable(step) FROM {database}.checkpoints),
                ifNull(a.resumed_from_step + 1, 9223372036854775807), 9223372036854775807)))) AS saved
    FROM {database}.v_attempts AS a
    LEFT JOIN
    (
        SELECT project, run_id, run_key, attempt AS attempt_key, min(step) AS first_step, count() AS steps
        FROM {database}.checkpoints
        GROUP BY project, run_id, run_key, attempt_key
    ) AS c ON c.project = a.project AND c.run_id = a.run_id AND c.run_key = a.run_key
        AND c.attempt_key = a.attempt_key
    GROUP BY project, run_id, run_key
)
ARRAY JOIN saved AS one;

-- One row per checkpoint: what all its ranks saved after one step of one attempt; see 0005.
CREATE OR REPLACE VIEW {database}.v_checkpoints {on_cluster} AS
SELECT
    run_id, project, attempt, step, uri, bytes, sha256, state, metrics,
    may_be_best AND state = 'complete'
        AND saved_at = maxIf(saved_at, may_be_best AND state = 'complete') OVER (PARTITION BY project, run_id, run_key)
        AS is_best,
    saved_at, duration_s,
    is_abandoned, kind, world_size, ranks, blocked_s, raw_bytes, local_uri, reason, artifacts, run_key
FROM
(
    SELECT
        c.project AS project, c.run_id AS run_id, c.run_key AS run_key, toInt32(greatest(t.attempt, 1)) AS attempt, c.step AS step,
        argMin(ifNull(nullIf(a.uri, ''), c.newest.4), c.rank) AS uri,
        sum(c.newest.5) AS bytes,
        -- Of files that others wrote the agent computes it.
        if(count() = 1, any(ifNull(nullIf(c.newest.3, ''), a.sha256)), '') AS sha256,
        multiIf(
            countIf(a.state = 'deleted') > 0, 'deleted',
            countIf(a.state = 'failed') > 0, 'failed',
            countIf(a.state = 'complete') >= if(any(c.newest.2) = 'sharded', max(c.newest.11), 1), 'complete',
            'pending') AS state,
        argMin(c.newest.9, c.rank) AS metrics,
        max(c.newest.10) AND arrayAll(value -> isFinite(value), mapValues(metrics)) AS may_be_best,
        max(c.saved_at) AS saved_at,
        max(c.newest.7) AS duration_s,
        any(t.attempt > 0 AND c.step >= t.limit_step) AS is_abandoned,
        any(c.newest.2) AS kind,
        toInt32(max(c.newest.11)) AS world_size,
        toInt32(count()) AS ranks,
        max(c.newest.8) AS blocked_s,
        sum(c.newest.6) AS raw_bytes,
        argMin(c.newest.4, c.rank) AS local_uri,
        anyIf(a.reason, a.reason IS NOT NULL) AS reason,
        groupArray(c.newest.1) AS artifacts
    FROM
    (
        -- A step that was saved again replaces what its rank had saved before.
        SELECT
            project, run_id, run_key, attempt AS attempt_key, step, rank, max(s.at) AS saved_at,
            argMax((s.artifact, s.kind, s.sha256, s.uri, s.bytes, s.raw_bytes, s.duration_s, s.blocked_s,
                s.metrics, s.is_best, s.world_size), (s.at, s.artifact)) AS newest
        FROM {database}.checkpoints AS s FINAL
        WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
        GROUP BY project, run_id, run_key, attempt_key, step, rank
    ) AS c
    LEFT JOIN {database}.checkpoint_limits AS t
        ON t.project = c.project AND t.run_id = c.run_id AND t.run_key = c.run_key AND t.attempt_key = c.attempt_key
    LEFT JOIN {database}.v_artifacts AS a ON a.run_key = c.run_key AND a.artifact = c.newest.1
    GROUP BY project, run_id, run_key, attempt, step
);

CREATE OR REPLACE VIEW {database}.v_logs {on_cluster} AS
SELECT
    l.project AS project, l.run_id AS run_id, l.rank AS rank, toInt32(greatest(a.attempt, 1)) AS attempt, l.at AS at,
    l.step AS step, l.stream AS stream, l.level AS level, l.name AS name, l.text AS text, l.seq AS seq,
    l.run_key AS run_key
FROM {database}.logs AS l FINAL
LEFT JOIN {database}.v_attempts AS a
    ON a.run_id = l.run_id AND a.run_key = l.run_key AND a.attempt_key = l.attempt
WHERE l.stream != 'histogram' AND l.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

-- Like series_limits, of histograms.
CREATE OR REPLACE VIEW {database}.histogram_limits {on_cluster} AS
SELECT
    project, run_id, run_key, name, rank, one.1 AS attempt_key, one.2 AS attempt,
    arrayMin(arrayMap(other -> if(one.3 = 0 OR other.2 < one.3, 9223372036854775807, other.4), logged)) AS limit_step
FROM
(
    SELECT
        l.project AS project, l.run_id AS run_id, l.run_key AS run_key, l.name AS name, l.rank AS rank,
        groupArray((l.attempt, a.attempt, a.replaced_by, assumeNotNull(l.first_step))) AS logged
    FROM
    (
        SELECT project, run_id, run_key, name, rank, attempt, min(step) AS first_step
        FROM {database}.logs
        WHERE stream = 'histogram' AND step IS NOT NULL
            AND run_key IN (SELECT run_key FROM {database}.restarted_runs)
        GROUP BY project, run_id, run_key, name, rank, attempt
    ) AS l
    INNER JOIN {database}.v_attempts AS a
        ON a.run_id = l.run_id AND a.run_key = l.run_key AND a.attempt_key = l.attempt
    GROUP BY project, run_id, run_key, name, rank
)
ARRAY JOIN logged AS one;

CREATE OR REPLACE VIEW {database}.v_histograms {on_cluster} AS
SELECT
    l.project AS project, l.run_id AS run_id, l.rank AS rank, toInt32(greatest(a.attempt, 1)) AS attempt, l.name AS name,
    l.step AS step, l.at AS at,
    JSONExtract(l.text, 'edges', 'Array(Float64)') AS edges,
    JSONExtract(l.text, 'counts', 'Array(Float64)') AS counts,
    ifNull(a.attempt > 0 AND l.step >= a.limit_step, 0) AS is_abandoned, l.run_key AS run_key
FROM {database}.logs AS l FINAL
LEFT JOIN {database}.histogram_limits AS a
    ON a.run_id = l.run_id AND a.run_key = l.run_key AND a.name = l.name
    AND a.rank = l.rank AND a.attempt_key = l.attempt
WHERE l.stream = 'histogram' AND l.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;
