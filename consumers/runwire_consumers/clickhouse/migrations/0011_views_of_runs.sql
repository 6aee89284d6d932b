-- Views of runs and of their lines; see 0010 for the rules.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.

-- One row per writer: its last word, its last sign of life and whether it went silent. A worker process
-- never says that it started or finished: the agent's last heartbeat about it says that it ended.
CREATE OR REPLACE VIEW {database}.v_writers {on_cluster} AS
SELECT
    project, run_id, attempt_key, writer_key, rank,
    max(w.name) AS writer,
    argMaxIf(w.status, w.seq, w.status IS NOT NULL) AS said,
    argMaxIf(w.status_reason, w.seq, w.status_reason IS NOT NULL) AS said_why,
    argMaxIf(w.exit_code, w.seq, w.exit_code IS NOT NULL) AS exit_code,
    max(w.event IN ('started', 'finished')) AS is_main,
    if(is_main, maxIf(w.at, w.event = 'finished'), maxIf(w.at, w.phase = 'ended')) AS ended_at,
    if(is_main, max(w.event = 'finished'), max(w.phase = 'ended')) AS ended,
    max(w.source = 'heartbeat') AS has_heartbeat,
    max(w.append_at) AS heard_at,
    max(w.at) AS last_seen_at,
    max(w.last_step) AS last_step,
    max(w.progress_at) AS last_progress_at,
    max(w.world_size) AS world_size,
    maxIf(w.accepted, w.source = 'run') AS accepted_at_end,
    maxIf(w.accepted, w.source = 'heartbeat') AS accepted_at_heartbeat,
    maxMap(w.dropped) AS dropped,
    (SELECT max(append_at) FROM {database}.heartbeat_last) AS watermark,
    multiIf(
        ended, ifNull(nullIf(said, 'running'), 'finished'),
        said IS NOT NULL AND said != 'running', said,
        -- Against the newest heartbeat of anybody: while the pipeline lags, nobody is lost.
        has_heartbeat AND heard_at < watermark - INTERVAL 60 SECOND, 'lost',
        'running') AS status
FROM
(
    SELECT
        project, run_id, attempt AS attempt_key, writer AS writer_key, rank, 'run' AS source,
        writer_name AS name, event, status, status_reason, exit_code, seq, at, append_at, last_step,
        CAST(NULL, 'Nullable(DateTime64(3, \'UTC\'))') AS progress_at, world_size, accepted, dropped, '' AS phase
    FROM {database}.run_events
    UNION ALL
    SELECT
        project, run_id, attempt, writer, rank, 'heartbeat',
        writer_name, '', NULL, NULL, NULL, seq, at, append_at, last_step,
        last_progress_at, NULL, accepted, dropped, phase
    FROM {database}.heartbeat_last
    UNION ALL
    SELECT
        project, run_id, attempt, writer, rank, 'points',
        '', '', NULL, NULL, NULL, 0, said_at, append_at, last_step,
        -- Of points stored before the worker bounded times: no client can read later ones.
        if(last_at < toDateTime64('2262-01-01 00:00:00', 3, 'UTC'), last_at, append_at) AS said_at,
        NULL, NULL, map(), ''
    FROM {database}.writer_progress
) AS w
WHERE (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
GROUP BY project, run_id, attempt_key, writer_key, rank;

-- One row per run: the state of its latest attempt, and of earlier ones that lived beside it.
CREATE OR REPLACE VIEW {database}.v_runs {on_cluster} AS
SELECT
    s.run_id AS run_id, s.project AS project, d.name AS name, d.`group` AS `group`, d.job_type AS job_type,
    s.status AS status, s.status_reason AS status_reason, s.attempt AS attempt,
    s.world_size AS world_size, d.tags AS tags,
    s.started_at AS started_at, s.finished_at AS finished_at,
    s.last_step AS last_step, s.last_progress_at AS last_progress_at, s.last_seen_at AS last_seen_at,
    d.parent_run_id AS parent_run_id,
    s.first_started_at AS first_started_at, s.resumed_from_step AS resumed_from_step, s.exit_code AS exit_code,
    s.writers AS writers, d.notes AS notes, d.environment AS environment,
    d.summary AS summary, d.metric_defs AS metric_defs,
    s.second_writers AS second_writers, s.dropped AS dropped
FROM
(
    SELECT
        a.project AS project, a.run_id AS run_id,
        max(a.attempt) AS attempt,
        argMax(a.started_at, a.attempt) AS started_at,
        min(a.started_at) AS first_started_at,
        argMax(a.resumed_from_step, a.attempt) AS resumed_from_step,
        argMaxIf(tuple(l.state), (l.weight, a.attempt), a.replaced_by = 0).1 AS latest,
        ifNull(nullIf(latest.1, ''), 'running') AS status,
        latest.2 AS status_reason,
        latest.3 AS exit_code,
        if(status = 'running', NULL, maxIf(l.over_at, a.replaced_by = 0)) AS finished_at,
        maxIf(l.world_size, a.replaced_by = 0) AS world_size,
        sumIf(l.writers, a.replaced_by = 0) AS writers,
        -- Trainers beyond one per rank that lived at the same time: the run id was given twice.
        toInt64(sumIf(l.mains, a.replaced_by = 0)) - toInt64(maxIf(l.main_ranks, a.replaced_by = 0)) AS second_writers,
        coalesce(maxIf(l.last_step, a.replaced_by = 0), resumed_from_step, max(l.last_step)) AS last_step,
        max(l.last_progress_at) AS last_progress_at,
        max(l.last_seen_at) AS last_seen_at,
        sumMap(l.dropped) AS dropped
    FROM {database}.v_attempts AS a
    LEFT JOIN
    (
        SELECT
            project, run_id, attempt_key,
            (
                argMax(w.status, w.weight), argMax(tuple(w.why), w.weight).1,
                argMax(tuple(w.exit_code), w.weight).1
            ) AS state,
            max(w.weight) AS weight,
            ifNull(maxIf(w.over_at, w.is_main), max(w.over_at)) AS over_at,
            max(w.world_size) AS world_size,
            count() AS writers,
            countIf(w.is_main) AS mains,
            uniqExactIf(w.rank, w.is_main) AS main_ranks,
            max(w.last_step) AS last_step,
            max(w.last_progress_at) AS last_progress_at,
            max(w.last_seen_at) AS last_seen_at,
            sumMap(w.dropped) AS dropped
        FROM
        (
            SELECT
                *,
                -- The status that says most: one living writer keeps a run running, and one that
                -- failed outweighs all that ended well. Of worker processes only a beating one counts
                -- where a trainer has said something.
                indexOf(['finished', 'lost', 'preempted', 'interrupted', 'killed', 'failed', 'running'], status)
                    * 1000000 - rank
                    - if(is_main OR (status = 'running' AND has_heartbeat), 0, 1000000000) AS weight,
                if(status = 'lost', concat('no heartbeat since ', toString(heard_at), ' UTC'), said_why) AS why,
                multiIf(ended, toNullable(ended_at), status = 'running', NULL, last_seen_at) AS over_at
            FROM {database}.v_writers
        ) AS w
        GROUP BY project, run_id, attempt_key
    ) AS l ON l.project = a.project AND l.run_id = a.run_id AND l.attempt_key = a.attempt_key
    GROUP BY a.project, a.run_id
) AS s
LEFT JOIN
(
    -- What runs say about themselves: of each writer its last word, by its own count; of all writers
    -- the last one heard in the latest attempt. Tags, summary and metric definitions are merged key by
    -- key: each writer knows only what it set itself, and an event may hold only the tags that changed.
    SELECT
        w.project AS project, w.run_id AS run_id,
        argMaxIf(w.name.1, (a.attempt, w.name.2), w.name.1 IS NOT NULL) AS name,
        argMaxIf(w.`group`.1, (a.attempt, w.`group`.2), w.`group`.1 IS NOT NULL) AS `group`,
        argMaxIf(w.job_type.1, (a.attempt, w.job_type.2), w.job_type.1 IS NOT NULL) AS job_type,
        argMaxIf(w.notes.1, (a.attempt, w.notes.2), w.notes.1 IS NOT NULL) AS notes,
        argMaxIf(w.parent_run_id.1, (a.attempt, w.parent_run_id.2), w.parent_run_id.1 IS NOT NULL) AS parent_run_id,
        argMaxIf(w.environment.1, (a.attempt, w.environment.2), w.environment.2.1 > toDateTime64(0, 3, 'UTC')) AS environment,
        mapApply((key, said) -> (key, said.2), maxMap(mapApply(
            (key, said) -> (key, ((a.attempt, said.2, said.3), said.4)), w.tags))) AS tags,
        if(
            countIf(w.summary.1 IS NOT NULL) > 1 AND min(isValidJSON(ifNull(w.summary.1, '{}'))),
            concat('{', arrayStringConcat(arrayMap((key, said) -> concat(toJSONString(key), ': ', said.2),
                mapKeys(maxMap(mapApply((key, value) -> (key, ((a.attempt, w.summary.2), value)),
                    mapFromArrays(
                        arrayMap(entry -> entry.1, JSONExtractKeysAndValuesRaw(ifNull(w.summary.1, '{}'))),
                        arrayMap(entry -> entry.2, JSONExtractKeysAndValuesRaw(ifNull(w.summary.1, '{}')))))) AS summary_of_all),
                mapValues(summary_of_all)), ', '), '}'),
            argMaxIf(w.summary.1, (a.attempt, w.summary.2), w.summary.1 IS NOT NULL)) AS summary,
        if(
            countIf(w.metric_defs.1 IS NOT NULL) > 1 AND min(isValidJSON(ifNull(w.metric_defs.1, '{}'))),
            concat('{', arrayStringConcat(arrayMap((key, said) -> concat(toJSONString(key), ': ', said.2),
                mapKeys(maxMap(mapApply((key, value) -> (key, ((a.attempt, w.metric_defs.2), value)),
                    mapFromArrays(
                        arrayMap(entry -> entry.1, JSONExtractKeysAndValuesRaw(ifNull(w.metric_defs.1, '{}'))),
                        arrayMap(entry -> entry.2, JSONExtractKeysAndValuesRaw(ifNull(w.metric_defs.1, '{}')))))) AS metric_defs_of_all),
                mapValues(metric_defs_of_all)), ', '), '}'),
            argMaxIf(w.metric_defs.1, (a.attempt, w.metric_defs.2), w.metric_defs.1 IS NOT NULL)) AS metric_defs
    FROM
    (
        SELECT
            project, run_id, attempt AS attempt_key,
            argMaxIf((e.name, (e.append_at, e.at)), e.seq, e.name IS NOT NULL) AS name,
            argMaxIf((e.`group`, (e.append_at, e.at)), e.seq, e.`group` IS NOT NULL) AS `group`,
            argMaxIf((e.job_type, (e.append_at, e.at)), e.seq, e.job_type IS NOT NULL) AS job_type,
            argMaxIf((e.notes, (e.append_at, e.at)), e.seq, e.notes IS NOT NULL) AS notes,
            argMaxIf((e.parent_run_id, (e.append_at, e.at)), e.seq, e.parent_run_id IS NOT NULL) AS parent_run_id,
            argMaxIf((e.summary, (e.append_at, e.at)), e.seq, e.summary IS NOT NULL) AS summary,
            argMaxIf((e.metric_defs, (e.append_at, e.at)), e.seq, e.metric_defs IS NOT NULL) AS metric_defs,
            maxMap(mapApply((key, value) -> (key, (e.seq, e.append_at, e.at, value)), e.tags)) AS tags,
            argMaxIf((e.environment, (e.append_at, e.at)), e.seq, e.has_environment) AS environment
        FROM {database}.run_events AS e
        GROUP BY project, run_id, attempt_key, writer
    ) AS w
    LEFT JOIN {database}.v_attempts AS a
        ON a.project = w.project AND a.run_id = w.run_id AND a.attempt_key = w.attempt_key
    GROUP BY project, run_id
) AS d ON d.project = s.project AND d.run_id = s.run_id;

CREATE OR REPLACE VIEW {database}.v_logs {on_cluster} AS
SELECT
    l.project AS project, l.run_id AS run_id, l.rank AS rank, toInt32(greatest(a.attempt, 1)) AS attempt, l.at AS at,
    l.step AS step, l.stream AS stream, l.level AS level, l.name AS name, l.text AS text, l.seq AS seq
FROM {database}.logs AS l FINAL
LEFT JOIN {database}.v_attempts AS a
    ON a.project = l.project AND a.run_id = l.run_id AND a.attempt_key = l.attempt
WHERE l.stream != 'histogram' AND (l.project, l.run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

-- Runs of which the views have to find abandoned histograms; all others have one attempt.
CREATE OR REPLACE VIEW {database}.restarted_runs {on_cluster} AS
SELECT project, run_id FROM {database}.attempts GROUP BY project, run_id HAVING uniqExact(attempt) > 1;

-- Like series_limits, of histograms.
CREATE OR REPLACE VIEW {database}.histogram_limits {on_cluster} AS
SELECT
    project, run_id, name, rank, one.1 AS attempt_key, one.2 AS attempt,
    arrayMin(arrayMap(other -> if(one.3 = 0 OR other.2 < one.3, 9223372036854775807, other.4), logged)) AS limit_step
FROM
(
    SELECT
        l.project AS project, l.run_id AS run_id, l.name AS name, l.rank AS rank,
        groupArray((l.attempt, a.attempt, a.replaced_by, assumeNotNull(l.first_step))) AS logged
    FROM
    (
        SELECT project, run_id, name, rank, attempt, min(step) AS first_step
        FROM {database}.logs
        WHERE stream = 'histogram' AND step IS NOT NULL
            AND (project, run_id) IN (SELECT project, run_id FROM {database}.restarted_runs)
        GROUP BY project, run_id, name, rank, attempt
    ) AS l
    INNER JOIN {database}.v_attempts AS a
        ON a.project = l.project AND a.run_id = l.run_id AND a.attempt_key = l.attempt
    GROUP BY project, run_id, name, rank
)
ARRAY JOIN logged AS one;

CREATE OR REPLACE VIEW {database}.v_histograms {on_cluster} AS
SELECT
    l.project AS project, l.run_id AS run_id, l.rank AS rank, toInt32(greatest(a.attempt, 1)) AS attempt, l.name AS name,
    l.step AS step, l.at AS at,
    JSONExtract(l.text, 'edges', 'Array(Float64)') AS edges,
    JSONExtract(l.text, 'counts', 'Array(Float64)') AS counts,
    ifNull(a.attempt > 0 AND l.step >= a.limit_step, 0) AS is_abandoned
FROM {database}.logs AS l FINAL
LEFT JOIN {database}.histogram_limits AS a
    ON a.project = l.project AND a.run_id = l.run_id AND a.name = l.name
    AND a.rank = l.rank AND a.attempt_key = l.attempt
WHERE l.stream = 'histogram' AND (l.project, l.run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

CREATE OR REPLACE VIEW {database}.v_dead_letters {on_cluster} AS
SELECT
    project, run_id, id, stream, `partition`, `offset`, last_offset, at, reason, points, key, value, value_bytes
FROM {database}.dead_letters FINAL
WHERE (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs);
