-- The rows of tables with hashes in their keys, and then what fills tables from others; see 0008. Copies
-- collapse by key, so an interrupted one is made again.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, where it could not be run yet.

-- only while run_events_by_hash has run_key
INSERT INTO {database}.run_events
    (project, run_id, rank, attempt, attempt_name, writer, writer_name, reporter, seq, at, append_at,
    event, status, status_reason, exit_code, name, `group`, job_type, notes, parent_run_id,
    has_tags, tags, world_size, last_step, resumed_from_step, accepted, has_dropped, dropped,
    has_environment, environment, summary, metric_defs, attempt_number, first_attempt)
SELECT
    project, run_id, rank, attempt, attempt_name, writer, writer_name, reporter, seq, at, append_at,
    event, status, status_reason, exit_code, name, `group`, job_type, notes, parent_run_id,
    has_tags, tags, world_size, last_step, resumed_from_step, accepted, has_dropped, dropped,
    has_environment, environment, summary, metric_defs, attempt_number, first_attempt
FROM {database}.run_events_by_hash;
-- only while run_events_by_hash has run_key
DROP TABLE IF EXISTS {database}.run_events_by_hash {on_cluster} SYNC;

-- only while attempts_by_hash has run_key
INSERT INTO {database}.attempts
    (project, run_id, attempt, attempt_name, started_at, resumed_from_step, first_at, first_step,
    last_step, chain, number, heard_at, heard_to, active_to)
SELECT
    project, run_id, attempt, attempt_name, started_at, resumed_from_step, first_at, first_step,
    last_step, chain, number, heard_at, heard_to, active_to
FROM {database}.attempts_by_hash;
-- only while attempts_by_hash has run_key
DROP TABLE IF EXISTS {database}.attempts_by_hash {on_cluster} SYNC;

-- only while params_by_hash has run_key
INSERT INTO {database}.params
    (project, run_id, rank, attempt, writer, seq, at, append_at, key, value)
SELECT
    project, run_id, rank, attempt, writer, seq, at, append_at, key, value
FROM {database}.params_by_hash;
-- only while params_by_hash has run_key
DROP TABLE IF EXISTS {database}.params_by_hash {on_cluster} SYNC;

-- only while heartbeats_by_hash has run_key
INSERT INTO {database}.heartbeats
    (project, run_id, rank, attempt, writer, writer_name, seq, at, append_at, last_step,
    last_progress_at, phase, accepted, dropped, host, pid, spool_bytes)
SETTINGS max_partitions_per_insert_block = 0
SELECT
    project, run_id, rank, attempt, writer, writer_name, seq, at, append_at, last_step,
    last_progress_at, phase, accepted, dropped, host, pid, spool_bytes
FROM {database}.heartbeats_by_hash;
-- only while heartbeats_by_hash has run_key
DROP TABLE IF EXISTS {database}.heartbeats_by_hash {on_cluster} SYNC;

-- only while heartbeat_last_by_hash has run_key
INSERT INTO {database}.heartbeat_last
    (project, run_id, rank, attempt, writer, writer_name, seq, at, append_at, last_step,
    last_progress_at, phase, accepted, dropped, host, pid, spool_bytes)
SELECT
    project, run_id, rank, attempt, writer, writer_name, seq, at, append_at, last_step,
    last_progress_at, phase, accepted, dropped, host, pid, spool_bytes
FROM {database}.heartbeat_last_by_hash;
-- only while heartbeat_last_by_hash has run_key
DROP TABLE IF EXISTS {database}.heartbeat_last_by_hash {on_cluster} SYNC;

-- only while logs_by_hash has run_key
INSERT INTO {database}.logs
    (project, run_id, rank, attempt, writer, seq, at, append_at, step, stream, name, level, text)
SELECT
    project, run_id, rank, attempt, writer, seq, at, append_at, step, stream, name, level, text
FROM {database}.logs_by_hash;
-- only while logs_by_hash has run_key
DROP TABLE IF EXISTS {database}.logs_by_hash {on_cluster} SYNC;

-- only while artifacts_by_hash has run_key
INSERT INTO {database}.artifacts
    (project, run_id, rank, attempt, writer, seq, at, append_at, artifact, event, name, type,
    has_aliases, aliases, metadata, files, bytes, sha256, uri, route, version_at_ns, reason,
    duration_s)
SELECT
    project, run_id, rank, attempt, writer, seq, at, append_at, artifact, event, name, type,
    has_aliases, aliases, metadata, files, bytes, sha256, uri, route, version_at_ns, reason,
    duration_s
FROM {database}.artifacts_by_hash;
-- only while artifacts_by_hash has run_key
DROP TABLE IF EXISTS {database}.artifacts_by_hash {on_cluster} SYNC;

-- only while checkpoints_by_hash has run_key
INSERT INTO {database}.checkpoints
    (project, run_id, rank, attempt, writer, seq, at, append_at, artifact, kind, sha256, uri, step,
    world_size, bytes, raw_bytes, duration_s, blocked_s, metrics, is_best)
SELECT
    project, run_id, rank, attempt, writer, seq, at, append_at, artifact, kind, sha256, uri, step,
    world_size, bytes, raw_bytes, duration_s, blocked_s, metrics, is_best
FROM {database}.checkpoints_by_hash;
-- only while checkpoints_by_hash has run_key
DROP TABLE IF EXISTS {database}.checkpoints_by_hash {on_cluster} SYNC;

-- only while dead_letters_by_hash has run_key
INSERT INTO {database}.dead_letters
    (project, run_id, writer, id, stream, `partition`, `offset`, last_offset, at, reason, points,
    key, value, value_bytes)
SELECT
    project, run_id, writer, id, stream, `partition`, `offset`, last_offset, at, reason, points,
    key, value, value_bytes
FROM {database}.dead_letters_by_hash;
-- only while dead_letters_by_hash has run_key
DROP TABLE IF EXISTS {database}.dead_letters_by_hash {on_cluster} SYNC;

-- only while deleted_runs_by_hash has run_key
INSERT INTO {database}.deleted_runs
    (project, run_id, deleted_at)
SELECT
    project, run_id, deleted_at
FROM {database}.deleted_runs_by_hash;
-- only while deleted_runs_by_hash has run_key
DROP TABLE IF EXISTS {database}.deleted_runs_by_hash {on_cluster} SYNC;

-- only while untidy_writers_by_hash has run_key
INSERT INTO {database}.untidy_writers
    (project, run_id, rank, writer)
SELECT
    project, run_id, rank, writer
FROM {database}.untidy_writers_by_hash;
-- only while untidy_writers_by_hash has run_key
DROP TABLE IF EXISTS {database}.untidy_writers_by_hash {on_cluster} SYNC;

-- only while batches_by_hash has run_key
INSERT INTO {database}.batches
    (project, run_id, rank, attempt, writer, batch_seq, points, first_seq, last_seq, first_step,
    last_step, first_at, last_at, untidy, append_at)
SELECT
    project, run_id, rank, attempt, writer, batch_seq, points, first_seq, last_seq, first_step,
    last_step, first_at, last_at, untidy, append_at
FROM {database}.batches_by_hash;
-- only while batches_by_hash has run_key
DROP TABLE IF EXISTS {database}.batches_by_hash {on_cluster} SYNC;

-- only while writer_progress_by_hash has run_key
INSERT INTO {database}.writer_progress
    (project, run_id, rank, attempt, writer, last_step, last_at, untidy, append_at)
SELECT
    project, run_id, rank, attempt, writer, last_step, last_at, untidy, append_at
FROM {database}.writer_progress_by_hash;
-- only while writer_progress_by_hash has run_key
DROP TABLE IF EXISTS {database}.writer_progress_by_hash {on_cluster} SYNC;

-- only while metric_rollup_by_hash has run_key
INSERT INTO {database}.metric_rollup
    (project, run_id, metric, rank, attempt, first_step, last_step, newest, min, max)
SELECT
    project, run_id, metric, rank, attempt, first_step, last_step, newest, min, max
FROM {database}.metric_rollup_by_hash;
-- only while metric_rollup_by_hash has run_key
DROP TABLE IF EXISTS {database}.metric_rollup_by_hash {on_cluster} SYNC;

-- only while metrics_by_hash has run_key
INSERT INTO {database}.metrics
    (project, run_id, metric, rank, attempt, writer, step, seq, at, value)
SELECT
    project, run_id, metric, rank, attempt, writer, step, seq, at, value
FROM {database}.metrics_by_hash;
-- only while metrics_by_hash has run_key
DROP TABLE IF EXISTS {database}.metrics_by_hash {on_cluster} SYNC;

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.attempts_of_events_mv {on_cluster}
TO {database}.attempts AS
SELECT
    project, run_id, attempt, max(attempt_name) AS attempt_name,
    minOrNullIf(at, event = 'started') AS started_at,
    min(toNullable(at)) AS first_at,
    max(resumed_from_step) AS resumed_from_step,
    max(if(e.first_attempt = '', concat('0:', e.attempt_name), concat('1:', e.first_attempt))) AS chain,
    max(ifNull(attempt_number, 1)) AS number,
    min(toNullable(append_at)) AS heard_at,
    max(toNullable(append_at)) AS heard_to,
    maxOrNullIf(at, reporter = '') AS active_to
FROM {database}.run_events AS e
GROUP BY project, run_id, attempt;

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.heartbeat_last_mv {on_cluster}
TO {database}.heartbeat_last AS
SELECT * FROM {database}.heartbeats;

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.artifact_stamps_mv {on_cluster}
TO {database}.artifact_stamps AS
SELECT project, sipHash64(name) AS name_key, artifact, assumeNotNull(version_at_ns) AS stamp
FROM {database}.artifacts
WHERE event != 'used' AND version_at_ns IS NOT NULL;
