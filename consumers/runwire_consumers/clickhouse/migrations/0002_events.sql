-- Base tables of events; see 0001 for the rules.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.

CREATE TABLE IF NOT EXISTS {database}.run_events {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128,
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    attempt_name String,
    writer UInt64,
    writer_name String,
    reporter String,
    seq Int64,
    at DateTime64(3, 'UTC'),
    append_at DateTime64(3, 'UTC'),
    event LowCardinality(String),
    status Nullable(String),
    status_reason Nullable(String),
    exit_code Nullable(Int64),
    name Nullable(String),
    `group` Nullable(String),
    job_type Nullable(String),
    notes Nullable(String),
    parent_run_id Nullable(String),
    has_tags Bool,
    tags Map(String, String),
    world_size Nullable(Int64),
    last_step Nullable(Int64),
    resumed_from_step Nullable(Int64),
    accepted Nullable(Int64),
    has_dropped Bool,
    dropped Map(String, Int64),
    has_environment Bool,
    environment Map(String, String) CODEC(ZSTD(3)),
    summary Nullable(String) CODEC(ZSTD(3)),
    metric_defs Nullable(String) CODEC(ZSTD(3)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (run_key, attempt, writer, seq, reporter)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per attempt, from its run events and from its batches: what numbers attempts and says
-- from which step on a later one replaced an earlier one.
CREATE TABLE IF NOT EXISTS {database}.attempts {on_cluster}
(
    project SimpleAggregateFunction(any, LowCardinality(String)),
    run_key UInt128,
    run_id SimpleAggregateFunction(any, LowCardinality(String)),
    attempt UInt64,
    attempt_name SimpleAggregateFunction(max, String),
    started_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))),
    resumed_from_step SimpleAggregateFunction(max, Nullable(Int64)),
    first_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))),
    first_step SimpleAggregateFunction(min, Nullable(Int64)),
    last_step SimpleAggregateFunction(max, Nullable(Int64)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}AggregatingMergeTree
ORDER BY (run_key, attempt)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.attempts_of_events_mv {on_cluster}
TO {database}.attempts AS
SELECT
    any(project) AS project, run_key, any(run_id) AS run_id, attempt, max(attempt_name) AS attempt_name,
    minOrNullIf(at, event = 'started') AS started_at,
    min(toNullable(at)) AS first_at,
    max(resumed_from_step) AS resumed_from_step
FROM {database}.run_events
GROUP BY run_key, attempt;

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.attempts_of_batches_mv {on_cluster}
TO {database}.attempts AS
SELECT
    any(project) AS project, run_key, any(run_id) AS run_id, attempt,
    min(toNullable(first_at)) AS first_at,
    min(toNullable(first_step)) AS first_step,
    max(toNullable(last_step)) AS last_step
FROM {database}.batches
GROUP BY run_key, attempt;

CREATE TABLE IF NOT EXISTS {database}.params {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128,
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    seq Int64,
    at DateTime64(3, 'UTC'),
    append_at DateTime64(3, 'UTC'),
    key String,
    value String CODEC(ZSTD(3)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (run_key, key, attempt, writer, seq)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- The history is for curves and detectors and expires; the last one of each writer is kept.
CREATE TABLE IF NOT EXISTS {database}.heartbeats {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128,
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    writer_name String,
    seq Int64,
    at DateTime64(3, 'UTC'),
    append_at DateTime64(3, 'UTC'),
    last_step Nullable(Int64),
    last_progress_at Nullable(DateTime64(3, 'UTC')),
    phase LowCardinality(String),
    accepted Int64,
    dropped Map(String, Int64),
    host LowCardinality(String),
    pid Int64,
    spool_bytes Int64,
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (run_key, writer, at, seq) -- each new agent counts seq from 0 again
TTL toDateTime(append_at) + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS {database}.heartbeat_last {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128,
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    writer_name String,
    seq Int64,
    at DateTime64(3, 'UTC'),
    append_at DateTime64(3, 'UTC'),
    last_step Nullable(Int64),
    last_progress_at Nullable(DateTime64(3, 'UTC')),
    phase LowCardinality(String),
    accepted Int64,
    dropped Map(String, Int64),
    host LowCardinality(String),
    pid Int64,
    spool_bytes Int64,
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree(at)
ORDER BY (run_key, attempt, writer)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.heartbeat_last_mv {on_cluster}
TO {database}.heartbeat_last AS
SELECT * FROM {database}.heartbeats;

CREATE TABLE IF NOT EXISTS {database}.logs {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128,
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    seq Int64 CODEC(DoubleDelta, ZSTD(1)),
    at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    append_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    step Nullable(Int64),
    stream LowCardinality(String),
    name LowCardinality(String),
    level LowCardinality(String),
    text String CODEC(ZSTD(3)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (run_key, rank, at, writer, stream, seq)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- Records that no table could take. The id is made of the record's coordinates.
CREATE TABLE IF NOT EXISTS {database}.dead_letters {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128,
    run_id LowCardinality(String),
    writer UInt64,
    id String,
    stream LowCardinality(String),
    `partition` String,
    `offset` Int64,
    last_offset Int64,
    at DateTime64(3, 'UTC'),
    reason String,
    points Int64,
    key String,
    value String CODEC(ZSTD(3)),
    value_bytes UInt64
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (run_key, id)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- Tombstones: views hide these runs and the sink drops what still arrives for them.
CREATE TABLE IF NOT EXISTS {database}.deleted_runs {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128,
    run_id String,
    deleted_at DateTime64(3, 'UTC')
)
ENGINE = {replicated}ReplacingMergeTree(deleted_at)
ORDER BY run_key
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- Writers whose curves v_series has to thin: they repeat steps, share a rank with another writer,
-- or their run was restarted. Kept by the sink, so that a curve does not pay for finding out.
CREATE TABLE IF NOT EXISTS {database}.untidy_writers {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128,
    run_id LowCardinality(String),
    rank Int32,
    writer UInt64
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (run_key, writer)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;
