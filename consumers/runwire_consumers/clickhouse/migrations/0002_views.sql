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
-- attempt. Works on arrays of up to 65,536 steps, which costs half of a GROUP BY step; only where
-- an array turns out to repeat a step is it sorted and thinned.
CREATE OR REPLACE VIEW {database}.v_series {on_cluster} AS
SELECT
    project, run_id, metric, rank, step, value, at, attempt, run_key, metric_id
FROM
(
    SELECT
        project, run_id, metric, rank, run_key, metric_id,
        groupArrayArray(s) AS steps, groupArrayArray(v) AS raw_values, groupArrayArray(t) AS times,
        groupArrayArray(q) AS seqs, groupArrayArray(arrayWithConstant(length(s), attempt)) AS attempts,
        arrayExists((x, y) -> x >= y, arrayPopBack(steps), arrayPopFront(steps)) AS repeats,
        -- Empty where nothing repeats: `if` alone would evaluate the sort for every array.
        arraySort(p -> (p.1, p.5, p.4, p.3), arrayZip(
            if(repeats, steps, []), if(repeats, raw_values, []), if(repeats, times, []),
            if(repeats, seqs, []), if(repeats, attempts, []))) AS sorted,
        arrayFilter((p, next) -> p.1 != next.1, sorted,
            arrayPushBack(arrayPopFront(sorted), (sorted[-1].1 + 1, nan, sorted[-1].3, 0, 0))) AS kept
    FROM
    (
        SELECT
            c.project AS project, c.run_id AS run_id, c.metric AS metric, c.rank AS rank,
            c.run_key AS run_key, c.metric_id AS metric_id, c.chunk AS chunk, a.attempt AS attempt,
            a.counts_to_step AS counts_to_step, c.last > counts_to_step AS cut,
            if(cut, arrayFilter(x -> x <= counts_to_step, c.steps), c.steps) AS s,
            if(cut, arrayFilter((y, x) -> x <= counts_to_step, c.vals, c.steps), c.vals) AS v,
            if(cut, arrayFilter((y, x) -> x <= counts_to_step, c.times, c.steps), c.times) AS t,
            if(cut, arrayFilter((y, x) -> x <= counts_to_step, c.seqs, c.steps), c.seqs) AS q
        FROM
        (
            SELECT
                project, run_id, metric, rank, run_key, metric_id, attempt,
                intDiv(step, 65536) AS chunk, max(step) AS last,
                groupArray(step) AS steps, groupArray(value) AS vals,
                groupArray(at) AS times, groupArray(seq) AS seqs
            FROM {database}.metrics FINAL
            WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
            GROUP BY project, run_id, metric, rank, run_key, metric_id, attempt, chunk
        ) AS c
        LEFT JOIN {database}.v_attempts AS a
            ON a.project = c.project AND a.run_id = c.run_id AND a.run_key = c.run_key AND a.attempt_key = c.attempt
    )
    GROUP BY project, run_id, metric, rank, run_key, metric_id, chunk
)
ARRAY JOIN
    if(repeats, kept.1, steps) AS step,
    if(repeats, kept.2, raw_values) AS value,
    if(repeats, kept.3, times) AS at,
    if(repeats, kept.5, attempts) AS attempt
SETTINGS use_skip_indexes_if_final_exact_mode = 0;
