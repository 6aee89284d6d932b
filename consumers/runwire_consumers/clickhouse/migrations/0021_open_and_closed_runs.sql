-- Runs split into open and closed ones: a page of runs and a rule about live runs cost what is open, and
-- of closed runs a look into a flat table.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.
--
-- A run is closed when it has ended or is lost and nothing was stored for it for a while (closing.py). It
-- is open again from the moment on that anything is: each row that says something about a run carries
-- `stored_at`, when the server took it. open_runs lists the runs that were open at `since`, so a run is
-- open if it is in the newest list or was touched since then. Any list gives the same rows as any other,
-- an old one and none at all too: it only says how many runs are computed and how many are looked up.

ALTER TABLE {database}.run_events {on_cluster}
    ADD COLUMN IF NOT EXISTS stored_at DateTime64(3, 'UTC') DEFAULT now64(3);
ALTER TABLE {database}.attempts {on_cluster}
    ADD COLUMN IF NOT EXISTS stored_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) DEFAULT now64(3);
ALTER TABLE {database}.writer_progress {on_cluster}
    ADD COLUMN IF NOT EXISTS stored_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) DEFAULT now64(3);
ALTER TABLE {database}.heartbeat_last {on_cluster}
    ADD COLUMN IF NOT EXISTS stored_at DateTime64(3, 'UTC') DEFAULT now64(3);
-- Of rows that are there already the default would be the time of each question.
ALTER TABLE {database}.run_events {on_cluster} MATERIALIZE COLUMN stored_at SETTINGS mutations_sync = 2;
ALTER TABLE {database}.attempts {on_cluster} MATERIALIZE COLUMN stored_at SETTINGS mutations_sync = 2;
ALTER TABLE {database}.writer_progress {on_cluster} MATERIALIZE COLUMN stored_at SETTINGS mutations_sync = 2;
ALTER TABLE {database}.heartbeat_last {on_cluster} MATERIALIZE COLUMN stored_at SETTINGS mutations_sync = 2;

CREATE OR REPLACE VIEW {database}.run_touches {on_cluster} AS
SELECT project, run_id, stored_at FROM {database}.run_events
UNION ALL
SELECT project, run_id, stored_at FROM {database}.attempts
UNION ALL
SELECT project, run_id, stored_at FROM {database}.writer_progress
UNION ALL
SELECT project, run_id, stored_at FROM {database}.heartbeat_last;

CREATE TABLE IF NOT EXISTS {database}.open_runs {on_cluster}
(
    since DateTime64(3, 'UTC'),
    project LowCardinality(String),
    run_id LowCardinality(String)
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (since, project, run_id)
TTL toDateTime(since) + INTERVAL 2 HOUR
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- The row of v_runs of each closed run, as it was at `closed_at`.
CREATE TABLE IF NOT EXISTS {database}.runs_closed {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    name Nullable(String),
    `group` Nullable(String),
    job_type Nullable(String),
    status LowCardinality(String),
    status_reason Nullable(String),
    attempt Int32,
    world_size Nullable(Int64),
    tags Map(String, String),
    started_at DateTime64(3, 'UTC'),
    finished_at Nullable(DateTime64(3, 'UTC')),
    last_step Nullable(Int64),
    last_progress_at Nullable(DateTime64(3, 'UTC')),
    last_seen_at DateTime64(3, 'UTC'),
    parent_run_id Nullable(String),
    first_started_at DateTime64(3, 'UTC'),
    resumed_from_step Nullable(Int64),
    exit_code Nullable(Int64),
    writers UInt64,
    notes Nullable(String) CODEC(ZSTD(3)),
    environment Map(String, String) CODEC(ZSTD(3)),
    summary Nullable(String) CODEC(ZSTD(3)),
    metric_defs Nullable(String) CODEC(ZSTD(3)),
    second_writers Int64,
    dropped Map(String, Int64),
    closed_at DateTime64(3, 'UTC')
)
ENGINE = {replicated}ReplacingMergeTree(closed_at)
ORDER BY (project, run_id)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE OR REPLACE VIEW {database}.open_now {on_cluster} AS
WITH (SELECT max(since) FROM {database}.open_runs) AS listed_at
SELECT project, run_id
FROM
(
    SELECT project, run_id FROM {database}.open_runs WHERE since = listed_at AND run_id != ''
    UNION DISTINCT
    SELECT project, run_id FROM {database}.run_touches WHERE stored_at >= listed_at
)
WHERE (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs);

-- Each open run as all of its rows say it: the state of its latest attempt, and of earlier ones that lived
-- beside it. Planning this query costs more than running it, so it reads each table once and joins none:
-- rows of attempts go along as those of a writer without a name. v_writers and v_attempts have the same
-- expressions for all runs.
-- What runs say about themselves: of each writer its last word, by its own count; of all writers the last
-- one heard in the latest attempt. Tags, summary and metric definitions are merged key by key: each writer
-- knows only what it set itself, and an event may hold only the tags that changed.
CREATE OR REPLACE VIEW {database}.runs_open {on_cluster} AS
WITH
    (SELECT groupArray((project, run_id)) FROM {database}.open_now) AS open,
    (SELECT max(append_at) FROM {database}.heartbeat_last) AS watermark
SELECT
    run_id, project,
    argMaxIf(t.name.1, (t.attempt, t.name.2), t.name.1 IS NOT NULL) AS name,
    argMaxIf(t.`group`.1, (t.attempt, t.`group`.2), t.`group`.1 IS NOT NULL) AS `group`,
    argMaxIf(t.job_type.1, (t.attempt, t.job_type.2), t.job_type.1 IS NOT NULL) AS job_type,
    argMaxIf(t.state, (t.weight, t.attempt), t.replaced_by = 0) AS latest,
    ifNull(nullIf(latest.1, ''), 'running') AS status,
    latest.2 AS status_reason,
    max(t.attempt) AS attempt,
    maxIf(t.world_size, t.replaced_by = 0) AS world_size,
    mapApply((key, said) -> (key, said.2), maxMap(mapApply(
        (key, said) -> (key, ((t.attempt, said.1), said.2)), t.tags))) AS tags,
    argMax(t.started_at, t.attempt) AS started_at,
    if(status = 'running', NULL, maxIf(t.over_at, t.replaced_by = 0)) AS finished_at,
    coalesce(maxIf(t.last_step, t.replaced_by = 0), resumed_from_step, max(t.last_step)) AS last_step,
    max(t.last_progress_at) AS last_progress_at,
    max(t.last_seen_at) AS last_seen_at,
    argMaxIf(t.parent_run_id.1, (t.attempt, t.parent_run_id.2), t.parent_run_id.1 IS NOT NULL) AS parent_run_id,
    min(t.started_at) AS first_started_at,
    argMax(t.resumed_from_step, t.attempt) AS resumed_from_step,
    latest.3 AS exit_code,
    sumIf(t.writers, t.replaced_by = 0) AS writers,
    argMaxIf(t.notes.1, (t.attempt, t.notes.2), t.notes.1 IS NOT NULL) AS notes,
    argMaxIf(t.environment.1, (t.attempt, t.environment.2), t.environment.2.1 > toDateTime64(0, 3, 'UTC')) AS environment,
    if(
        sum(t.summaries.1) > 1 AND min(t.summaries.2),
        concat('{', arrayStringConcat(arrayMap((key, said) -> concat(toJSONString(key), ': ', said.2),
            mapKeys(maxMap(mapApply((key, said) -> (key, ((t.attempt, said.1), said.2)), t.summaries.3)) AS summary_of_all),
            mapValues(summary_of_all)), ', '), '}'),
        argMaxIf(t.summary.1, (t.attempt, t.summary.2), t.summary.1 IS NOT NULL)) AS summary,
    if(
        sum(t.definitions.1) > 1 AND min(t.definitions.2),
        concat('{', arrayStringConcat(arrayMap((key, said) -> concat(toJSONString(key), ': ', said.2),
            mapKeys(maxMap(mapApply((key, said) -> (key, ((t.attempt, said.1), said.2)), t.definitions.3)) AS definitions_of_all),
            mapValues(definitions_of_all)), ', '), '}'),
        argMaxIf(t.metric_defs.1, (t.attempt, t.metric_defs.2), t.metric_defs.1 IS NOT NULL)) AS metric_defs,
    -- Trainers beyond one per rank that lived at the same time: the run id was given twice.
    toInt64(sumIf(t.mains, t.replaced_by = 0)) - toInt64(maxIf(t.main_ranks, t.replaced_by = 0)) AS second_writers,
    sumMap(t.dropped) AS dropped
FROM
(
    SELECT
        *,
        assumeNotNull(coalesce(said_start_at, first_at, heard_at)) AS started_at,
        arrayFirst(other -> other.2 >= active_to OR other.3 >= heard_to, groupArray((attempt, said_start_at, heard_at)) OVER (
            PARTITION BY project, run_id ORDER BY attempt ROWS BETWEEN 1 FOLLOWING AND 64 FOLLOWING)).1 AS replaced_by
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
                -- One row per attempt.
                SELECT
                    project, run_id, attempt_key,
                    max(w.chain) AS chain, max(w.number) AS number, min(w.said_start_at) AS said_start_at,
                    min(w.first_at) AS first_at, min(w.first_heard_at) AS heard_at, max(w.heard_to) AS heard_to,
                    max(w.active_to) AS active_to, max(w.resumed_from_step) AS resumed_from_step,
                    argMaxIf((w.status, w.why, w.exit_code), w.weight, w.is_writer) AS state,
                    maxIf(w.weight, w.is_writer) AS weight,
                    ifNull(maxIf(w.over_at, w.is_main), max(w.over_at)) AS over_at,
                    max(w.world_size) AS world_size,
                    countIf(w.is_writer) AS writers,
                    countIf(w.is_main) AS mains,
                    uniqExactIf(w.rank, w.is_main) AS main_ranks,
                    max(w.last_step) AS last_step,
                    max(w.progress_at) AS last_progress_at,
                    maxIf(w.seen_at, w.is_writer) AS last_seen_at,
                    sumMap(w.dropped) AS dropped,
                    argMaxIf(w.name, w.name.2, w.name.1 IS NOT NULL) AS name,
                    argMaxIf(w.`group`, w.`group`.2, w.`group`.1 IS NOT NULL) AS `group`,
                    argMaxIf(w.job_type, w.job_type.2, w.job_type.1 IS NOT NULL) AS job_type,
                    argMaxIf(w.notes, w.notes.2, w.notes.1 IS NOT NULL) AS notes,
                    argMaxIf(w.parent_run_id, w.parent_run_id.2, w.parent_run_id.1 IS NOT NULL) AS parent_run_id,
                    argMaxIf(w.environment, w.environment.2, w.environment.2.1 > toDateTime64(0, 3, 'UTC')) AS environment,
                    maxMap(mapApply((key, said) -> (key, ((said.2, said.3), said.4)), w.tags)) AS tags,
                    argMaxIf(w.summary, w.summary.2, w.summary.1 IS NOT NULL) AS summary,
                    argMaxIf(w.metric_defs, w.metric_defs.2, w.metric_defs.1 IS NOT NULL) AS metric_defs,
                    (
                        countIf(w.summary.1 IS NOT NULL), min(isValidJSON(ifNull(w.summary.1, '{}'))),
                        maxMap(mapFromArrays(
                            arrayMap(entry -> entry.1, JSONExtractKeysAndValuesRaw(ifNull(w.summary.1, '{}'))),
                            arrayMap(entry -> (w.summary.2, entry.2), JSONExtractKeysAndValuesRaw(ifNull(w.summary.1, '{}')))))
                    ) AS summaries,
                    (
                        countIf(w.metric_defs.1 IS NOT NULL), min(isValidJSON(ifNull(w.metric_defs.1, '{}'))),
                        maxMap(mapFromArrays(
                            arrayMap(entry -> entry.1, JSONExtractKeysAndValuesRaw(ifNull(w.metric_defs.1, '{}'))),
                            arrayMap(entry -> (w.metric_defs.2, entry.2), JSONExtractKeysAndValuesRaw(ifNull(w.metric_defs.1, '{}')))))
                    ) AS definitions
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
                        multiIf(NOT is_writer, NULL, ended, toNullable(ended_at), status = 'running', NULL, seen_at) AS over_at
                    FROM
                    (
                        SELECT
                            *,
                            multiIf(
                                ended, ifNull(nullIf(said, 'running'), 'finished'),
                                said IS NOT NULL AND said != 'running', said,
                                -- Against the newest heartbeat of anybody: while the pipeline lags, nobody is lost.
                                has_heartbeat AND heard_at < watermark - INTERVAL 60 SECOND, 'lost',
                                'running') AS status
                        FROM
                        (
                            SELECT
                                *,
                                if(is_main, finished_at, gone_at) AS ended_at,
                                if(is_main, is_finished, is_gone) AS ended
                            FROM
                            (
                                -- One row per writer, and one of each attempt.
                                SELECT
                                    project, run_id, attempt_key, writer_key, rank,
                                    max(e.source != 'attempt') AS is_writer,
                                    max(e.chain) AS chain, max(e.number) AS number, min(e.said_start_at) AS said_start_at,
                                    min(e.first_at) AS first_at, min(e.first_heard_at) AS first_heard_at, max(e.heard_to) AS heard_to,
                                    max(e.active_to) AS active_to,
                                    maxIf(e.resumed_from_step, e.source = 'attempt') AS resumed_from_step,
                                    argMaxIf(e.status, e.seq, e.status IS NOT NULL) AS said,
                                    argMaxIf(e.status_reason, e.seq, e.status_reason IS NOT NULL) AS said_why,
                                    argMaxIf(e.exit_code, e.seq, e.exit_code IS NOT NULL) AS exit_code,
                                    max(e.event IN ('started', 'finished')) AS is_main,
                                    maxIf(e.at, e.event = 'finished') AS finished_at,
                                    max(e.event = 'finished') AS is_finished,
                                    maxIf(e.at, e.phase = 'ended') AS gone_at,
                                    max(e.phase = 'ended') AS is_gone,
                                    max(e.source = 'heartbeat') AS has_heartbeat,
                                    max(e.append_at) AS heard_at,
                                    max(e.at) AS seen_at,
                                    max(e.last_step) AS last_step,
                                    max(e.progress_at) AS progress_at,
                                    max(e.world_size) AS world_size,
                                    maxMap(e.dropped) AS dropped,
                                    argMaxIf((e.name, (e.append_at, e.at)), e.seq, e.name IS NOT NULL) AS name,
                                    argMaxIf((e.`group`, (e.append_at, e.at)), e.seq, e.`group` IS NOT NULL) AS `group`,
                                    argMaxIf((e.job_type, (e.append_at, e.at)), e.seq, e.job_type IS NOT NULL) AS job_type,
                                    argMaxIf((e.notes, (e.append_at, e.at)), e.seq, e.notes IS NOT NULL) AS notes,
                                    argMaxIf((e.parent_run_id, (e.append_at, e.at)), e.seq, e.parent_run_id IS NOT NULL) AS parent_run_id,
                                    argMaxIf((e.summary, (e.append_at, e.at)), e.seq, e.summary IS NOT NULL) AS summary,
                                    argMaxIf((e.metric_defs, (e.append_at, e.at)), e.seq, e.metric_defs IS NOT NULL) AS metric_defs,
                                    maxMap(mapApply((key, value) -> (key, (e.seq, e.append_at, e.at, value)), e.tags)) AS tags,
                                    argMaxIf((e.environment, (e.append_at, e.at)), e.seq, e.has_environment) AS environment
                                FROM
                                (
                                    SELECT
                                        project, run_id, attempt AS attempt_key, writer AS writer_key, rank, 'run' AS source,
                                        event, status, status_reason, exit_code, seq, at, append_at, last_step,
                                        CAST(NULL, 'Nullable(DateTime64(3, \'UTC\'))') AS progress_at, world_size, dropped, '' AS phase,
                                        name, `group`, job_type, notes, parent_run_id, summary, metric_defs, tags, has_environment, environment,
                                        '' AS chain, toInt64(0) AS number, progress_at AS said_start_at, progress_at AS first_at,
                                        progress_at AS first_heard_at, progress_at AS heard_to, progress_at AS active_to, resumed_from_step
                                    FROM {database}.run_events
                                    WHERE (project, run_id) IN open
                                    UNION ALL
                                    SELECT
                                        project, run_id, attempt, writer, rank, 'heartbeat',
                                        '', NULL, NULL, NULL, seq, at, append_at, last_step,
                                        last_progress_at, NULL, dropped, phase,
                                        NULL, NULL, NULL, NULL, NULL, NULL, NULL, map(), false, map(),
                                        '', 0, NULL, NULL, NULL, NULL, NULL, NULL
                                    FROM {database}.heartbeat_last
                                    WHERE (project, run_id) IN open
                                    UNION ALL
                                    SELECT
                                        project, run_id, attempt, writer, rank, 'points',
                                        '', NULL, NULL, NULL, 0, said_at, append_at, last_step,
                                        -- Of points stored before the worker bounded times: no client can read later ones.
                                        if(last_at < toDateTime64('2262-01-01 00:00:00', 3, 'UTC'), last_at, append_at) AS said_at,
                                        NULL, map(), '',
                                        NULL, NULL, NULL, NULL, NULL, NULL, NULL, map(), false, map(),
                                        '', 0, NULL, NULL, NULL, NULL, NULL, NULL
                                    FROM {database}.writer_progress
                                    WHERE (project, run_id) IN open
                                    UNION ALL
                                    SELECT
                                        project, run_id, attempt, 0, -1, 'attempt',
                                        '', NULL, NULL, NULL, 0, toDateTime64(0, 3, 'UTC'), toDateTime64(0, 3, 'UTC'), NULL,
                                        NULL, NULL, map(), '',
                                        NULL, NULL, NULL, NULL, NULL, NULL, NULL, map(), false, map(),
                                        chain, number, started_at, first_at, heard_at, heard_to, active_to, resumed_from_step
                                    FROM {database}.attempts
                                    WHERE (project, run_id) IN open
                                ) AS e
                                GROUP BY project, run_id, attempt_key, writer_key, rank
                            )
                        )
                    )
                ) AS w
                GROUP BY project, run_id, attempt_key
                HAVING max(NOT w.is_writer)
            )
        )
    )
) AS t
GROUP BY project, run_id;

-- One row per run. Which runs are open is asked once, so that a run which is closed or touched meanwhile is
-- neither missed nor shown twice.
CREATE OR REPLACE VIEW {database}.v_runs {on_cluster} AS
WITH (SELECT groupArray((project, run_id)) FROM {database}.open_now) AS open
SELECT
    run_id, project, name, `group`, job_type, status, status_reason, attempt, world_size, tags,
    started_at, finished_at, last_step, last_progress_at, last_seen_at, parent_run_id,
    first_started_at, resumed_from_step, exit_code, writers, notes, environment, summary,
    metric_defs, second_writers, dropped
FROM {database}.runs_closed FINAL
WHERE (project, run_id) NOT IN open
    AND (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
UNION ALL
SELECT
    run_id, project, name, `group`, job_type, status, status_reason, attempt, world_size, tags,
    started_at, finished_at, last_step, last_progress_at, last_seen_at, parent_run_id,
    first_started_at, resumed_from_step, exit_code, writers, notes, environment, summary,
    metric_defs, second_writers, dropped
FROM {database}.runs_open;
