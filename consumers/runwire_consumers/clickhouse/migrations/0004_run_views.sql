-- Views of runs and of what the pipeline did with them; see 0003 for the rules.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.

-- One row per writer: its last word, its last sign of life and whether it went silent.
CREATE OR REPLACE VIEW {database}.v_writers {on_cluster} AS
SELECT
    project, run_id, run_key, attempt_key, writer_key, rank,
    max(w.name) AS writer,
    argMaxIf(w.status, w.seq, w.status IS NOT NULL) AS said,
    argMaxIf(w.status_reason, w.seq, w.status_reason IS NOT NULL) AS said_why,
    argMaxIf(w.exit_code, w.seq, w.exit_code IS NOT NULL) AS exit_code,
    maxIf(w.at, w.source = 'run' AND w.event = 'finished') AS ended_at,
    max(w.source = 'run' AND w.event = 'finished') AS ended,
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
        ended, ifNull(said, 'finished'),
        said IS NOT NULL AND said != 'running', said,
        -- Against the newest heartbeat of anybody: while the pipeline lags, nobody is lost.
        has_heartbeat AND heard_at < watermark - INTERVAL 60 SECOND, 'lost',
        'running') AS status
FROM
(
    SELECT
        project, run_id, run_key, attempt AS attempt_key, writer AS writer_key, rank, 'run' AS source,
        writer_name AS name, event, status, status_reason, exit_code, seq, at, append_at, last_step,
        CAST(NULL, 'Nullable(DateTime64(3, \'UTC\'))') AS progress_at, world_size, accepted, dropped
    FROM {database}.run_events
    UNION ALL
    SELECT
        project, run_id, run_key, attempt, writer, rank, 'heartbeat',
        writer_name, '', NULL, NULL, NULL, seq, at, append_at, last_step,
        last_progress_at, NULL, accepted, dropped
    FROM {database}.heartbeat_last
    UNION ALL
    SELECT
        project, run_id, run_key, attempt, writer, rank, 'points',
        '', '', NULL, NULL, NULL, 0, last_at, append_at, last_step,
        last_at, NULL, NULL, map()
    FROM {database}.writer_progress
) AS w
WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
GROUP BY project, run_id, run_key, attempt_key, writer_key, rank;

-- One row per run: the state of its latest attempt. What runs say about themselves (name, tags, …)
-- is the last thing said by anybody in any attempt.
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
    d.summary AS summary, d.metric_defs AS metric_defs, s.run_key AS run_key
FROM
(
    SELECT
        a.project AS project, a.run_id AS run_id, a.run_key AS run_key,
        max(a.attempt) AS attempt,
        argMax(a.started_at, a.attempt) AS started_at,
        min(a.started_at) AS first_started_at,
        argMax(a.resumed_from_step, a.attempt) AS resumed_from_step,
        argMax(tuple(l.state), a.attempt).1 AS latest,
        ifNull(nullIf(latest.1, ''), 'running') AS status,
        latest.2 AS status_reason,
        latest.3 AS exit_code,
        if(status = 'running', NULL, latest.4) AS finished_at,
        latest.5 AS world_size,
        latest.6 AS writers,
        coalesce(latest.7, resumed_from_step, max(l.last_step)) AS last_step,
        max(l.last_progress_at) AS last_progress_at,
        max(l.last_seen_at) AS last_seen_at
    FROM {database}.v_attempts AS a
    LEFT JOIN
    (
        SELECT
            project, run_id, run_key, attempt_key,
            (
                argMax(w.status, w.weight), argMax(tuple(w.why), w.weight).1,
                argMax(tuple(w.exit_code), w.weight).1, max(w.over_at),
                max(w.world_size), count(), max(w.last_step)
            ) AS state,
            max(w.last_step) AS last_step,
            max(w.last_progress_at) AS last_progress_at,
            max(w.last_seen_at) AS last_seen_at
        FROM
        (
            SELECT
                *,
                -- The status that says most: one living writer keeps a run running, and one that
                -- failed outweighs all that ended well.
                indexOf(['finished', 'lost', 'preempted', 'interrupted', 'killed', 'failed', 'running'], status)
                    * 1000000 - rank AS weight,
                if(status = 'lost', concat('no heartbeat since ', toString(heard_at), ' UTC'), said_why) AS why,
                multiIf(ended, toNullable(ended_at), status = 'running', NULL, last_seen_at) AS over_at
            FROM {database}.v_writers
        ) AS w
        GROUP BY project, run_id, run_key, attempt_key
    ) AS l ON l.project = a.project AND l.run_id = a.run_id AND l.run_key = a.run_key AND l.attempt_key = a.attempt_key
    GROUP BY a.project, a.run_id, a.run_key
) AS s
LEFT JOIN
(
    SELECT
        project, run_id, run_key,
        argMaxIf(e.name, (e.at, e.seq), e.name IS NOT NULL) AS name,
        argMaxIf(e.`group`, (e.at, e.seq), e.`group` IS NOT NULL) AS `group`,
        argMaxIf(e.job_type, (e.at, e.seq), e.job_type IS NOT NULL) AS job_type,
        argMaxIf(e.notes, (e.at, e.seq), e.notes IS NOT NULL) AS notes,
        argMaxIf(e.parent_run_id, (e.at, e.seq), e.parent_run_id IS NOT NULL) AS parent_run_id,
        argMaxIf(e.tags, (e.at, e.seq), e.has_tags) AS tags,
        argMaxIf(e.environment, (e.at, e.seq), e.has_environment) AS environment,
        argMaxIf(e.summary, (e.at, e.seq), e.summary IS NOT NULL) AS summary,
        argMaxIf(e.metric_defs, (e.at, e.seq), e.metric_defs IS NOT NULL) AS metric_defs
    FROM {database}.run_events AS e
    GROUP BY project, run_id, run_key
) AS d ON d.project = s.project AND d.run_id = s.run_id AND d.run_key = s.run_key;

CREATE OR REPLACE VIEW {database}.v_params {on_cluster} AS
SELECT
    p.project AS project, p.run_id AS run_id, p.key AS key,
    argMax(p.value, (p.at, p.seq)) AS value,
    max(p.at) AS at, p.run_key AS run_key
FROM {database}.params AS p
WHERE p.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
GROUP BY project, run_id, run_key, key;

-- The newest point, and the extremes of the finite ones, over all attempts.
CREATE OR REPLACE VIEW {database}.v_latest {on_cluster} AS
SELECT
    r.project AS project, r.run_id AS run_id, r.metric AS metric, r.rank AS rank,
    max(r.last) AS newest,
    newest.3 AS step, newest.1 AS at, newest.4 AS value,
    min(r.min) AS min, max(r.max) AS max,
    min(r.first_step) AS first_step, max(r.last_step) AS last_step,
    r.run_key AS run_key, r.metric_id AS metric_id
FROM {database}.metric_rollup AS r
WHERE r.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
GROUP BY project, run_id, run_key, metric, metric_id, rank;

-- accepted = stored + dead_lettered + pending + what was dropped after it had been accepted (reasons
-- evicted and spool_lost; points of all other reasons were never accepted). Until a writer has said how much it accepted in
-- all, what is stored already counts as accepted: its heartbeats lag behind its points.
CREATE OR REPLACE VIEW {database}.v_completeness {on_cluster} AS
SELECT
    c.project AS project, c.run_id AS run_id, c.rank AS rank,
    sum(ifNull(c.total, greatest(c.so_far, c.stored + dead_points))) AS accepted,
    sum(c.stored) AS stored,
    sum(toInt64(ifNull(d.points, 0)) AS dead_points) AS dead_lettered,
    sum(arraySum(mapValues(c.drops))) AS dropped,
    accepted - stored - dead_lettered
        - sum(c.drops['evicted'] + c.drops['spool_lost']) AS pending,
    sumMap(c.drops) AS dropped_by_reason,
    c.run_key AS run_key
FROM
(
    SELECT
        project, run_id, run_key, rank, writer_key,
        sum(u.points) AS stored,
        if(max(u.ended), max(u.at_end), NULL) AS total,
        ifNull(max(u.at_heartbeat), 0) AS so_far,
        maxMap(u.dropped) AS drops
    FROM
    (
        SELECT
            project, run_id, run_key, rank, writer AS writer_key, toInt64(points) AS points,
            false AS ended, CAST(NULL, 'Nullable(Int64)') AS at_end, CAST(NULL, 'Nullable(Int64)') AS at_heartbeat,
            CAST(map(), 'Map(String, Int64)') AS dropped
        FROM {database}.batches FINAL
        UNION ALL
        SELECT
            project, run_id, run_key, rank, writer, 0, accepted IS NOT NULL, accepted, NULL, dropped
        FROM {database}.run_events
        UNION ALL
        SELECT
            project, run_id, run_key, rank, writer, 0, false, NULL, accepted, dropped
        FROM {database}.heartbeat_last
    ) AS u
    WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
    GROUP BY project, run_id, run_key, rank, writer_key
) AS c
LEFT JOIN
(
    SELECT writer AS writer_key, sum(points) AS points FROM {database}.dead_letters FINAL GROUP BY writer
) AS d ON d.writer_key = c.writer_key
GROUP BY project, run_id, run_key, rank
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

CREATE OR REPLACE VIEW {database}.v_logs {on_cluster} AS
SELECT
    l.project AS project, l.run_id AS run_id, l.rank AS rank, a.attempt AS attempt, l.at AS at, l.step AS step,
    l.stream AS stream, l.level AS level, l.name AS name, l.text AS text, l.seq AS seq, l.run_key AS run_key
FROM {database}.logs AS l FINAL
LEFT JOIN {database}.v_attempts AS a ON a.run_key = l.run_key AND a.attempt_key = l.attempt
WHERE l.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

CREATE OR REPLACE VIEW {database}.v_dead_letters {on_cluster} AS
SELECT
    project, run_id, id, stream, `partition`, `offset`, last_offset, at, reason, points, key, value, value_bytes
FROM {database}.dead_letters FINAL
WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs);
