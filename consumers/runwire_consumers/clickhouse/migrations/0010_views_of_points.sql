-- The public interface, here of points: columns may be added, never renamed (schemas/README.md describes
-- them).
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.
--
-- A filter on project, run_id or metric reaches the tables through every view: those columns are
-- keys of each GROUP BY, PARTITION BY and JOIN on the way.
-- An aggregate of a SimpleAggregateFunction column has that type too, which some clients do not know:
-- views cast it.
-- use_skip_indexes_if_final_exact_mode = 0 is exact here: rows that FINAL could collapse have the
-- same key, hence the same run and metric and the same values, hence are never pruned apart.

-- Ids of runs whose points need more than reading: a run of that id is deleted, or has writers in
-- untidy_writers, where the sink notes all those of restarted runs. By id alone, because a test of
-- (project, run_id) costs a large curve more than all the rest; what it lets through is only slower.
CREATE OR REPLACE VIEW {database}.marked_runs {on_cluster} AS
SELECT run_id FROM {database}.deleted_runs UNION ALL SELECT run_id FROM {database}.untidy_writers;

-- Attempts are numbered in the order in which the pipeline heard of them; of those that trainers counted
-- a later one comes after an earlier one, whatever arrived first.
-- `replaced_by` is the first later attempt that started when this one had ended: from there on later
-- attempts abandon points of this one. 0: there is none, so all that was logged counts. An attempt that
-- was active (by its own clock, and as the pipeline heard it) after another's start was alive beside it.
CREATE OR REPLACE VIEW {database}.v_attempts {on_cluster} AS
SELECT
    project, run_id, attempt_key, attempt_name, attempt,
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
            PARTITION BY project, run_id ORDER BY attempt
            ROWS BETWEEN 1 FOLLOWING AND 64 FOLLOWING) AS later,
        min(first_step) OVER (
            PARTITION BY project, run_id ORDER BY attempt
            ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS first_step_after,
        max(active_to) OVER (
            PARTITION BY project, run_id ORDER BY attempt
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS active_before,
        max(heard_to) OVER (
            PARTITION BY project, run_id ORDER BY attempt
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS heard_before
    FROM
    (
        SELECT
            *,
            toInt32(row_number() OVER (
                PARTITION BY project, run_id
                ORDER BY place_at, chain_place_at, chain, number, heard_at, said_start_at, attempt_key)) AS attempt
        FROM
        (
            SELECT
                *,
                max(heard_at) OVER (PARTITION BY project, run_id, chain ORDER BY number) AS place_at,
                min(said_start_at) OVER (PARTITION BY project, run_id, chain) AS chain_place_at
            FROM
            (
                SELECT
                    project, run_id, attempt AS attempt_key,
                    toString(max(a.attempt_name)) AS attempt_name,
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
                WHERE (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
                GROUP BY project, run_id, attempt_key
            )
        )
    )
);

-- From `limit_step` on, the points of a series that this attempt logged are abandoned: the first step
-- at which an attempt from `replaced_by` on logged the same metric of the same rank. Only of runs with
-- writers in untidy_writers: all others have one attempt.
CREATE OR REPLACE VIEW {database}.series_limits {on_cluster} AS
SELECT
    project, run_id, metric, rank, one.1 AS attempt_key, one.2 AS attempt,
    arrayMin(arrayMap(other -> if(one.3 = 0 OR other.2 < one.3, 9223372036854775807, other.4), logged)) AS limit_step
FROM
(
    SELECT
        r.project AS project, r.run_id AS run_id, r.metric AS metric, r.rank AS rank,
        groupArray((r.attempt, a.attempt, a.replaced_by, r.first_step)) AS logged
    FROM
    (
        SELECT project, run_id, metric, rank, attempt, min(s.first_step) AS first_step
        FROM {database}.metric_rollup AS s
        WHERE (project, run_id) IN (SELECT project, run_id FROM {database}.untidy_writers)
        GROUP BY project, run_id, metric, rank, attempt
    ) AS r
    INNER JOIN {database}.v_attempts AS a
        ON a.project = r.project AND a.run_id = r.run_id AND a.attempt_key = r.attempt
    GROUP BY project, run_id, metric, rank
)
ARRAY JOIN logged AS one;

-- Every accepted point once. Only runs with writers in untidy_writers can have attempts other than 1 and
-- abandoned points.
CREATE OR REPLACE VIEW {database}.v_metrics {on_cluster} AS
SELECT
    -- Never true, but of a column: a constant in a filter would keep the indexes from being used.
    project, run_id, metric, rank, toInt32(is_abandoned + 1) AS attempt, step, seq, at, value,
    rank < -2147483648 AS is_abandoned, attempt AS attempt_key, writer AS writer_key
FROM {database}.metrics FINAL
WHERE run_id NOT IN (SELECT run_id FROM {database}.marked_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0
UNION ALL
SELECT
    m.project AS project, m.run_id AS run_id, m.metric AS metric, m.rank AS rank,
    toInt32(greatest(l.attempt, 1)) AS attempt, m.step AS step, m.seq AS seq, m.at AS at, m.value AS value,
    (l.attempt > 0 AND m.step >= l.limit_step) AS is_abandoned, m.attempt AS attempt_key, m.writer AS writer_key
FROM {database}.metrics AS m FINAL
LEFT JOIN {database}.series_limits AS l
    ON l.project = m.project AND l.run_id = m.run_id AND l.metric = m.metric AND l.rank = m.rank
    AND l.attempt_key = m.attempt
WHERE (m.project, m.run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
    AND m.run_id IN (SELECT run_id FROM {database}.marked_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

-- One value per step: of the points that are not abandoned, the last written one. Two attempts have a
-- step in common only where they lived beside each other: there the earlier one is shown.
CREATE OR REPLACE VIEW {database}.v_series {on_cluster} AS
SELECT
    project, run_id, metric, rank, step, value, at, toInt32((rank < -2147483648) + 1) AS attempt
FROM {database}.metrics FINAL
WHERE run_id NOT IN (SELECT run_id FROM {database}.marked_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0
UNION ALL
SELECT
    project, run_id, metric, rank, step, written.1 AS value, written.2 AS at, written.3 AS attempt
FROM
(
    SELECT
        m.project AS project, m.run_id AS run_id, m.metric AS metric, m.rank AS rank, m.step AS step,
        argMax((m.value, m.at, toInt32(greatest(l.attempt, 1))), (-l.attempt, m.seq, m.at)) AS written
    FROM {database}.metrics AS m FINAL
    LEFT JOIN {database}.series_limits AS l
        ON l.project = m.project AND l.run_id = m.run_id AND l.metric = m.metric AND l.rank = m.rank
        AND l.attempt_key = m.attempt
    WHERE (m.project, m.run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
        AND m.run_id IN (SELECT run_id FROM {database}.marked_runs)
        AND NOT (l.attempt > 0 AND m.step >= l.limit_step)
    GROUP BY project, run_id, metric, rank, step
    SETTINGS use_skip_indexes_if_final_exact_mode = 0
);

-- The newest point, and the extremes of the finite ones, over all attempts.
CREATE OR REPLACE VIEW {database}.v_latest {on_cluster} AS
SELECT
    r.project AS project, r.run_id AS run_id, r.metric AS metric, r.rank AS rank,
    max((a.attempt, r.newest.1, r.newest.2, r.newest.3, r.newest.4, r.newest.5, r.newest.6)) AS newest,
    newest.6 AS step,
    least(newest.5, toDateTime64('2262-01-01 00:00:00', 3, 'UTC')) AS at,
    newest.7 AS value,
    min(r.min) AS min, max(r.max) AS max,
    toInt64(min(r.first_step)) AS first_step, toInt64(max(r.last_step)) AS last_step
FROM {database}.metric_rollup AS r
LEFT JOIN {database}.v_attempts AS a
    ON a.project = r.project AND a.run_id = r.run_id AND a.attempt_key = r.attempt
WHERE (r.project, r.run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
GROUP BY project, run_id, metric, rank;

-- The last value that was logged: by the latest attempt, in the order in which its writer counted.
CREATE OR REPLACE VIEW {database}.v_params {on_cluster} AS
SELECT
    w.project AS project, w.run_id AS run_id, w.key AS key,
    argMax(w.said.1, (a.attempt, w.said.2, w.said.3)) AS value,
    max(w.said.3) AS at
FROM
(
    SELECT
        project, run_id, key, attempt AS attempt_key, argMax((p.value, p.append_at, p.at), p.seq) AS said
    FROM {database}.params AS p
    WHERE (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
    GROUP BY project, run_id, key, attempt_key, writer
) AS w
LEFT JOIN {database}.v_attempts AS a
    ON a.project = w.project AND a.run_id = w.run_id AND a.attempt_key = w.attempt_key
GROUP BY project, run_id, key;

-- accepted = stored + dead_lettered + pending + what was dropped after it had been accepted (reasons
-- evicted and spool_lost; points of all other reasons were never accepted). Until a writer has said how
-- much it accepted in all, what is stored already counts as accepted: its heartbeats lag behind its
-- points. Counts of calls that failed are no points; v_runs has them.
-- Stored is what the books say; only of writers with a gap the rows of batches are added up.
CREATE OR REPLACE VIEW {database}.v_completeness {on_cluster} AS
SELECT
    c.project AS project, c.run_id AS run_id, c.rank AS rank,
    sum(ifNull(c.total, greatest(c.so_far, c.stored + dead_points))) AS accepted,
    sum(c.stored) AS stored,
    sum(toInt64(ifNull(d.points, 0)) AS dead_points) AS dead_lettered,
    sum(arraySum(mapValues(c.drops))) AS dropped,
    accepted - stored - dead_lettered
        - sum(c.drops['evicted'] + c.drops['spool_lost']) AS pending,
    sumMap(c.drops) AS dropped_by_reason
FROM
(
    SELECT
        project, run_id, rank, writer_key,
        if(max(u.whole).1 > max(u.last_batch_seq), max(u.whole).2, sum(u.points)) AS stored,
        if(max(u.ended), max(u.at_end), NULL) AS total,
        ifNull(max(u.at_heartbeat), 0) AS so_far,
        mapFilter((reason, _) -> NOT startsWith(reason, 'call:'), maxMap(u.dropped)) AS drops
    FROM
    (
        SELECT
            project, run_id, rank, writer AS writer_key, whole, last_batch_seq, toInt64(0) AS points,
            false AS ended, CAST(NULL, 'Nullable(Int64)') AS at_end, CAST(NULL, 'Nullable(Int64)') AS at_heartbeat,
            CAST(map(), 'Map(String, Int64)') AS dropped
        FROM {database}.writer_progress
        UNION ALL
        SELECT
            project, run_id, rank, writer, (0, 0), -1, toInt64(points), false, NULL, NULL, map()
        FROM {database}.batches FINAL
        WHERE (project, run_id, writer) IN (
            SELECT project, run_id, writer FROM {database}.writer_progress WHERE whole.1 <= last_batch_seq)
        UNION ALL
        SELECT
            project, run_id, rank, writer, (0, 0), -1, 0, accepted IS NOT NULL, accepted, NULL, dropped
        FROM {database}.run_events
        UNION ALL
        SELECT
            project, run_id, rank, writer, (0, 0), -1, 0, false, NULL, accepted, dropped
        FROM {database}.heartbeat_last
    ) AS u
    WHERE (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
    GROUP BY project, run_id, rank, writer_key
) AS c
LEFT JOIN
(
    SELECT writer AS writer_key, sum(points) AS points FROM {database}.dead_letters FINAL GROUP BY writer
) AS d ON d.writer_key = c.writer_key
GROUP BY project, run_id, rank
SETTINGS use_skip_indexes_if_final_exact_mode = 0;
