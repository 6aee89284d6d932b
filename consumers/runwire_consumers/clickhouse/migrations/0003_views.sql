-- The public interface: columns may be added, never renamed (schemas/README.md describes them).
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.
--
-- A filter on project, run_id or metric reaches the tables through every view: those columns are
-- keys of each GROUP BY, PARTITION BY and JOIN on the way.
-- use_skip_indexes_if_final_exact_mode = 0 is exact here: rows that FINAL could collapse have the
-- same key, hence the same run and metric, hence are never pruned apart.

CREATE OR REPLACE VIEW {database}.v_attempts {on_cluster} AS
SELECT
    project, run_id, run_key, attempt_key, attempt_name,
    toInt32(row_number() OVER (
        PARTITION BY project, run_id, run_key ORDER BY started_at, attempt_key)) AS attempt,
    started_at, resumed_from_step, first_step, last_step,
    -- Points with a greater step are abandoned: a later attempt went back to before them.
    ifNull(min(ifNull(resumed_from_step, first_step - 1)) OVER (
        PARTITION BY project, run_id, run_key ORDER BY started_at, attempt_key
        ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), 9223372036854775807) AS counts_to_step
FROM
(
    SELECT
        project, run_id, run_key, attempt AS attempt_key,
        max(a.attempt_name) AS attempt_name,
        assumeNotNull(ifNull(min(a.started_at), min(a.first_at))) AS started_at,
        max(a.resumed_from_step) AS resumed_from_step,
        min(a.first_step) AS first_step,
        max(a.last_step) AS last_step
    FROM {database}.attempts AS a
    WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
    GROUP BY project, run_id, run_key, attempt
);

-- Every accepted point once.
CREATE OR REPLACE VIEW {database}.v_metrics {on_cluster} AS
SELECT
    m.project AS project, m.run_id AS run_id, m.metric AS metric, m.rank AS rank,
    a.attempt AS attempt, m.step AS step, m.seq AS seq, m.at AS at, m.value AS value,
    m.step > a.counts_to_step AS is_abandoned,
    m.run_key AS run_key, m.metric_id AS metric_id, m.attempt AS attempt_key, m.writer AS writer_key
FROM {database}.metrics AS m FINAL
LEFT JOIN {database}.v_attempts AS a ON a.run_key = m.run_key AND a.attempt_key = m.attempt
WHERE m.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

-- One value per step: of the points that are not abandoned, the last written one of the latest
-- attempt. Only writers that the sink noted in untidy_writers need the thinning of the second part.
CREATE OR REPLACE VIEW {database}.v_series {on_cluster} AS
SELECT project, run_id, metric, rank, step, value, at, toInt32(1) AS attempt, run_key, metric_id
FROM {database}.metrics FINAL
WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
    AND writer NOT IN (SELECT writer FROM {database}.untidy_writers)
SETTINGS use_skip_indexes_if_final_exact_mode = 0
UNION ALL
SELECT
    project, run_id, metric, rank, step, written.1 AS value, written.2 AS at, written.3 AS attempt, run_key, metric_id
FROM
(
    SELECT
        m.project AS project, m.run_id AS run_id, m.metric AS metric, m.rank AS rank, m.step AS step,
        m.run_key AS run_key, m.metric_id AS metric_id,
        argMax((m.value, m.at, a.attempt), (a.attempt, m.seq, m.at)) AS written
    FROM {database}.metrics AS m FINAL
    LEFT JOIN {database}.v_attempts AS a ON a.run_key = m.run_key AND a.attempt_key = m.attempt
    WHERE m.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
        AND m.writer IN (SELECT writer FROM {database}.untidy_writers)
        AND m.step <= a.counts_to_step
    GROUP BY project, run_id, metric, rank, run_key, metric_id, step
    SETTINGS use_skip_indexes_if_final_exact_mode = 0
);
