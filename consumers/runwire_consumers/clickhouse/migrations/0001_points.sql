-- Base tables. Run on the embedded engine 26.9; written for ClickHouse server 26.8, where it
-- could not be run yet. People and dashboards read the views of the last migration, not these.
--
-- Every table, targets of materialized views included, has a deduplication window: a retry with
-- the same insert token is dropped, and behind that the sorting key (a natural key made by the
-- producer) makes a replay under any other token collapse in reads with FINAL.
-- Inserts are fsynced because the spool deletes what was inserted.
-- `run_key`, `metric_id`, `attempt` and `writer` are BLAKE2b hashes made by runwire_schemas.identity.

CREATE TABLE IF NOT EXISTS {database}.metrics {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128 CODEC(ZSTD(1)),
    run_id LowCardinality(String),
    metric_id UInt64 CODEC(ZSTD(1)),
    metric LowCardinality(String),
    rank Int32 CODEC(ZSTD(1)),
    attempt UInt64 CODEC(ZSTD(1)),
    writer UInt64 CODEC(ZSTD(1)),
    step Int64 CODEC(DoubleDelta, ZSTD(1)),
    seq Int64 CODEC(DoubleDelta, ZSTD(1)),
    at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    value Float64 CODEC(ZSTD(1)),
    -- The key is made of hashes, so plain names prune through these. Bloom filters because set
    -- and minmax cost as much insert time as the sort (1.6 against 3.1 M rows/s).
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1,
    INDEX by_metric metric TYPE bloom_filter GRANULARITY 1,
    INDEX by_project project TYPE bloom_filter GRANULARITY 1,
    INDEX by_writer writer TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (run_key, metric_id, rank, step, writer, seq)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per (run, metric, rank, attempt), after merges. Only aggregates that a replay cannot
-- change. Filled by the worker: a materialized view doubles the time of an insert (rollup.py).
CREATE TABLE IF NOT EXISTS {database}.metric_rollup {on_cluster}
(
    project SimpleAggregateFunction(any, LowCardinality(String)),
    run_key UInt128,
    run_id SimpleAggregateFunction(any, LowCardinality(String)),
    metric_id UInt64,
    metric SimpleAggregateFunction(any, LowCardinality(String)),
    rank Int32,
    attempt UInt64,
    first_step SimpleAggregateFunction(min, Int64),
    last_step SimpleAggregateFunction(max, Int64),
    last SimpleAggregateFunction(max, Tuple(at DateTime64(3, 'UTC'), seq Int64, step Int64, value Float64)),
    min SimpleAggregateFunction(min, Nullable(Float64)),
    max SimpleAggregateFunction(max, Nullable(Float64)),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}AggregatingMergeTree
ORDER BY (run_key, metric_id, rank, attempt)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per metric batch of a writer: what "stored" is counted from.
CREATE TABLE IF NOT EXISTS {database}.batches {on_cluster}
(
    project LowCardinality(String),
    run_key UInt128,
    run_id LowCardinality(String),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    batch_seq Int64,
    points UInt64,
    first_seq Int64,
    last_seq Int64,
    first_step Int64,
    last_step Int64,
    first_at DateTime64(3, 'UTC'),
    last_at DateTime64(3, 'UTC'),
    untidy Bool, -- repeats a step of some metric of its writer; see v_series
    append_at DateTime64(3, 'UTC'),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree
ORDER BY (run_key, writer, batch_seq)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS {database}.writer_progress {on_cluster}
(
    project SimpleAggregateFunction(any, LowCardinality(String)),
    run_key UInt128,
    run_id SimpleAggregateFunction(any, LowCardinality(String)),
    rank Int32,
    attempt UInt64,
    writer UInt64,
    last_step SimpleAggregateFunction(max, Int64),
    last_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    untidy SimpleAggregateFunction(max, UInt8),
    append_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    INDEX by_run_id run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {replicated}AggregatingMergeTree
ORDER BY (run_key, attempt, rank, writer)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.writer_progress_mv {on_cluster}
TO {database}.writer_progress AS
SELECT
    any(project) AS project, run_key, any(run_id) AS run_id, rank, attempt, writer,
    max(last_step) AS last_step,
    max(last_at) AS last_at,
    max(toUInt8(untidy)) AS untidy,
    max(append_at) AS append_at
FROM {database}.batches
GROUP BY run_key, attempt, rank, writer;
