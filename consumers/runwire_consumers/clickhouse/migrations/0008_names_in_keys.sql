-- All tables, with names in their keys instead of hashes, and what fills tables from others. A new
-- database starts here; files before this one are run only where an older version already was.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, where it could not be run yet.
-- People and dashboards read the views of the last migration, not these.
--
-- Every key of a run's table begins with (project, run_id), so that a filter on them reads only what it
-- names; the index on run_id serves a filter that leaves the project out.
-- Every table, targets of materialized views included, has a deduplication window: a retry with
-- the same insert token is dropped, and behind that the sorting key (a natural key made by the
-- producer) makes a replay under any other token collapse in reads with FINAL.
-- Inserts are fsynced because the spool deletes what was inserted.
-- `attempt` and `writer` are BLAKE2b hashes made by runwire_schemas.identity.
--
-- Stop the workers of the older version first. Tables move aside before any is copied: a worker that
-- still runs is refused and writes the same batch again, while readers are refused until the views of
-- the next files stand. Copies collapse by key, so an interrupted one is made again.

-- only while run_events has run_key
RENAME TABLE {database}.run_events TO {database}.run_events_by_hash {on_cluster};
-- only while attempts has run_key
RENAME TABLE {database}.attempts TO {database}.attempts_by_hash {on_cluster};
-- only while params has run_key
RENAME TABLE {database}.params TO {database}.params_by_hash {on_cluster};
-- only while heartbeats has run_key
RENAME TABLE {database}.heartbeats TO {database}.heartbeats_by_hash {on_cluster};
-- only while heartbeat_last has run_key
RENAME TABLE {database}.heartbeat_last TO {database}.heartbeat_last_by_hash {on_cluster};
-- only while logs has run_key
RENAME TABLE {database}.logs TO {database}.logs_by_hash {on_cluster};
-- only while artifacts has run_key
RENAME TABLE {database}.artifacts TO {database}.artifacts_by_hash {on_cluster};
-- only while checkpoints has run_key
RENAME TABLE {database}.checkpoints TO {database}.checkpoints_by_hash {on_cluster};
-- only while dead_letters has run_key
RENAME TABLE {database}.dead_letters TO {database}.dead_letters_by_hash {on_cluster};
-- only while deleted_runs has run_key
RENAME TABLE {database}.deleted_runs TO {database}.deleted_runs_by_hash {on_cluster};
-- only while untidy_writers has run_key
RENAME TABLE {database}.untidy_writers TO {database}.untidy_writers_by_hash {on_cluster};
-- only while batches has run_key
RENAME TABLE {database}.batches TO {database}.batches_by_hash {on_cluster};
-- only while writer_progress has run_key
RENAME TABLE {database}.writer_progress TO {database}.writer_progress_by_hash {on_cluster};
-- only while metric_rollup has run_key
RENAME TABLE {database}.metric_rollup TO {database}.metric_rollup_by_hash {on_cluster};
-- only while metrics has run_key
RENAME TABLE {database}.metrics TO {database}.metrics_by_hash {on_cluster};

-- After the tables: until they are moved, what is written still reaches those that these fill.
-- only while metrics_by_hash has run_key
DROP VIEW IF EXISTS {database}.writer_progress_mv {on_cluster};
-- only while metrics_by_hash has run_key
DROP VIEW IF EXISTS {database}.attempts_of_events_mv {on_cluster};
-- only while metrics_by_hash has run_key
DROP VIEW IF EXISTS {database}.attempts_of_batches_mv {on_cluster};
-- only while metrics_by_hash has run_key
DROP VIEW IF EXISTS {database}.heartbeat_last_mv {on_cluster};
-- only while metrics_by_hash has run_key
DROP VIEW IF EXISTS {database}.artifact_stamps_mv {on_cluster};

-- Neighbours have equal names, which cost almost nothing; codecs and merges by columns because merging
-- costs more than inserting (decision 0004 has the figures).
CREATE TABLE IF NOT EXISTS {database}.metrics {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    metric LowCardinality(String),
    rank Int32 CODEC(LZ4),
    attempt UInt64 CODEC(LZ4),
    writer UInt64 CODEC(LZ4),
    step Int64 CODEC(DoubleDelta, LZ4),
    seq Int64 CODEC(DoubleDelta, LZ4),
    at DateTime64(3, 'UTC') CODEC(Delta, LZ4),
    value Float64 CODEC(Delta, LZ4),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1,
    INDEX by_at at TYPE minmax GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (project, run_id, metric, rank, step, writer, seq)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1,
    vertical_merge_algorithm_min_columns_to_activate = 1;

-- One row per (run, metric, rank, attempt), after merges. Only aggregates that a replay cannot
-- change. Filled by the worker: a materialized view doubles the time of an insert (rows.py). `newest` is
-- the point the pipeline heard last; `place_at` never steps back within the calls of a writer, whose
-- clock may. The projection serves the latest values of a metric over the runs of a project.
CREATE TABLE IF NOT EXISTS {database}.metric_rollup {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    metric LowCardinality(String),
    rank Int32,
    attempt UInt64,
    first_step SimpleAggregateFunction(min, Int64),
    last_step SimpleAggregateFunction(max, Int64),
    newest SimpleAggregateFunction(max, Tuple(
        append_at DateTime64(3, 'UTC'), place_at DateTime64(3, 'UTC'), seq Int64, at DateTime64(3, 'UTC'),
        step Int64, value Float64)),
    min SimpleAggregateFunction(min, Nullable(Float64)),
    max SimpleAggregateFunction(max, Nullable(Float64)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1,
    PROJECTION by_metric (SELECT * ORDER BY project, metric, run_id)
)
ENGINE = {replicated}AggregatingMergeTree
ORDER BY (project, run_id, metric, rank, attempt)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1,
    deduplicate_merge_projection_mode = 'rebuild', lightweight_mutation_projection_mode = 'rebuild';

-- One row per metric batch of a writer: what "stored" is counted from behind a gap. `untidy` batches repeat a step
-- of some metric of their writer; see v_series.
CREATE TABLE IF NOT EXISTS {database}.batches {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    rank Int32 CODEC(ZSTD(1)),
    attempt UInt64 CODEC(ZSTD(1)),
    writer UInt64 CODEC(ZSTD(1)),
    batch_seq Int64 CODEC(DoubleDelta, ZSTD(1)),
    points UInt64 CODEC(ZSTD(1)),
    first_seq Int64 CODEC(DoubleDelta, ZSTD(1)),
    last_seq Int64 CODEC(DoubleDelta, ZSTD(1)),
    first_step Int64 CODEC(DoubleDelta, ZSTD(1)),
    last_step Int64 CODEC(DoubleDelta, ZSTD(1)),
    first_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    last_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    untidy Bool CODEC(ZSTD(1)),
    append_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (project, run_id, writer, batch_seq)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per writer, filled by the worker: views over batches took three times as long as the insert
-- below them. The first `batches` batches of the writer are stored and hold `points` points (books.py);
-- beyond them lie batches behind a gap, up to `last_batch_seq`. Rows of older versions know of none.
CREATE TABLE IF NOT EXISTS {database}.writer_progress {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    last_step SimpleAggregateFunction(max, Int64),
    last_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    untidy SimpleAggregateFunction(max, UInt8),
    append_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    whole SimpleAggregateFunction(max, Tuple(batches Int64, points Int64)),
    last_batch_seq SimpleAggregateFunction(max, Int64),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}AggregatingMergeTree
ORDER BY (project, run_id, attempt, rank, writer)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS {database}.run_events {on_cluster}
(
    project LowCardinality(String),
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
    attempt_number Nullable(Int64),
    first_attempt String,
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (project, run_id, attempt, writer, seq, reporter)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per attempt, from its run events (by a view) and from its batches (by the worker): what numbers
-- attempts and says which of them replaced which. `chain` and `number` are what the trainers counted:
-- attempts of one chain come in the order of their numbers. '1:' is before a chain that a trainer named,
-- '0:' before an attempt that counts alone. `heard_at` and `heard_to` are by the pipeline's clock,
-- `active_to` by the trainer's: what its own processes said last.
CREATE TABLE IF NOT EXISTS {database}.attempts {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    attempt UInt64,
    attempt_name SimpleAggregateFunction(max, String),
    started_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))),
    resumed_from_step SimpleAggregateFunction(max, Nullable(Int64)),
    first_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))),
    first_step SimpleAggregateFunction(min, Nullable(Int64)),
    last_step SimpleAggregateFunction(max, Nullable(Int64)),
    chain SimpleAggregateFunction(max, String),
    number SimpleAggregateFunction(max, Int64),
    heard_at SimpleAggregateFunction(min, Nullable(DateTime64(3, 'UTC'))),
    heard_to SimpleAggregateFunction(max, Nullable(DateTime64(3, 'UTC'))),
    active_to SimpleAggregateFunction(max, Nullable(DateTime64(3, 'UTC'))),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}AggregatingMergeTree
ORDER BY (project, run_id, attempt)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- The projection serves one parameter over the runs of a project.
CREATE TABLE IF NOT EXISTS {database}.params {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    seq Int64,
    at DateTime64(3, 'UTC'),
    append_at DateTime64(3, 'UTC'),
    key String,
    value String CODEC(ZSTD(3)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1,
    PROJECTION by_key (SELECT * ORDER BY project, key, run_id)
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (project, run_id, key, attempt, writer, seq)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1,
    deduplicate_merge_projection_mode = 'rebuild', lightweight_mutation_projection_mode = 'rebuild';

-- The history is for curves and detectors and expires a day at a time; the last one of each writer is
-- kept. By the time of the batch, of which a block has one: trainers' clocks could make any number of days.
CREATE TABLE IF NOT EXISTS {database}.heartbeats {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    rank Int32 CODEC(ZSTD(1)),
    attempt UInt64 CODEC(ZSTD(1)),
    writer UInt64 CODEC(ZSTD(1)),
    writer_name String CODEC(ZSTD(1)),
    seq Int64 CODEC(DoubleDelta, ZSTD(1)),
    at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    append_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    last_step Nullable(Int64) CODEC(Delta, ZSTD(1)),
    last_progress_at Nullable(DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)),
    phase LowCardinality(String),
    accepted Int64 CODEC(Delta, ZSTD(1)),
    dropped Map(String, Int64) CODEC(ZSTD(1)),
    host LowCardinality(String),
    pid Int64 CODEC(ZSTD(1)),
    spool_bytes Int64 CODEC(ZSTD(1)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
PARTITION BY toYYYYMMDD(append_at)
ORDER BY (project, run_id, writer, at, seq) -- each new agent counts seq from 0 again
TTL toDateTime(append_at) + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1,
    ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS {database}.heartbeat_last {on_cluster}
(
    project LowCardinality(String),
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
ORDER BY (project, run_id, attempt, writer)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS {database}.logs {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    rank Int32 CODEC(ZSTD(1)),
    attempt UInt64 CODEC(ZSTD(1)),
    writer UInt64 CODEC(ZSTD(1)),
    seq Int64 CODEC(DoubleDelta, ZSTD(1)),
    at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    append_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    step Nullable(Int64) CODEC(Delta, ZSTD(1)),
    stream LowCardinality(String),
    name LowCardinality(String),
    level LowCardinality(String),
    text String CODEC(ZSTD(3)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1,
    INDEX by_at at TYPE minmax GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (project, run_id, rank, at, writer, stream, seq)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- Records that no table could take. The id is made of the record's coordinates.
CREATE TABLE IF NOT EXISTS {database}.dead_letters {on_cluster}
(
    project LowCardinality(String),
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
ORDER BY (project, run_id, id)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- Tombstones: views hide these runs and the sink drops what still arrives for them.
CREATE TABLE IF NOT EXISTS {database}.deleted_runs {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    deleted_at DateTime64(3, 'UTC')
)
ENGINE = {replicated}ReplacingMergeTree(deleted_at)
ORDER BY (project, run_id)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- Writers whose curves v_series has to thin: they repeat steps, share a rank with another writer,
-- or their run was restarted. Kept by the sink, so that a curve does not pay for finding out.
CREATE TABLE IF NOT EXISTS {database}.untidy_writers {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    rank Int32,
    writer UInt64
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (project, run_id, writer)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- What happened to an artifact, once each: logged, shipped, complete, failed, deleted; and used, which
-- is of the run that used it.
CREATE TABLE IF NOT EXISTS {database}.artifacts {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    seq Int64,
    at DateTime64(3, 'UTC'),
    append_at DateTime64(3, 'UTC'),
    artifact String,
    event LowCardinality(String),
    name String,
    type LowCardinality(String),
    has_aliases Bool,
    aliases Array(String),
    metadata String CODEC(ZSTD(3)),
    files Int64,
    bytes Int64,
    sha256 String,
    uri String,
    route LowCardinality(String),
    version_at_ns Nullable(Int64),
    reason Nullable(String),
    duration_s Nullable(Float64),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (project, run_id, artifact, event)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- What each rank saved; whether it can be had says the artifact.
CREATE TABLE IF NOT EXISTS {database}.checkpoints {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    seq Int64,
    at DateTime64(3, 'UTC'),
    append_at DateTime64(3, 'UTC'),
    artifact String,
    kind LowCardinality(String),
    sha256 String,
    uri String,
    step Int64,
    world_size Int64,
    bytes Int64,
    raw_bytes Int64,
    duration_s Float64,
    blocked_s Float64,
    metrics Map(String, Float64),
    is_best Bool,
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (project, run_id, step, attempt, rank, artifact)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- The stamps that number the versions of a name. They outlive a deleted run, as the entries of the
-- object store do, so that later versions keep their numbers; of the name only a hash stays.
CREATE TABLE IF NOT EXISTS {database}.artifact_stamps {on_cluster}
(
    project LowCardinality(String),
    name_key UInt64,
    artifact String,
    stamp Int64
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (project, name_key, artifact, stamp)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;
