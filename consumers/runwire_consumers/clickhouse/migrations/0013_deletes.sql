-- Deletion in steps; see 0008 for the rules of tables.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.

-- deleted: the rows are to be removed. archived: they are removed too, but the object store has them.
-- restoring: an archive is being brought back, so its rows must stay. The newest state counts.
ALTER TABLE {database}.deleted_runs {on_cluster}
    ADD COLUMN IF NOT EXISTS state LowCardinality(String) DEFAULT 'deleted';

-- Deleted runs without any row left. Views need not hide them, so their number costs no query;
-- workers still drop what arrives late.
CREATE TABLE IF NOT EXISTS {database}.purged_runs {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    deleted_at DateTime64(3, 'UTC'),
    purged_at DateTime64(3, 'UTC')
)
ENGINE = {replicated}ReplacingMergeTree(purged_at)
ORDER BY (project, run_id)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- Runs whose metrics were thinned, and by which rule: none is applied twice.
CREATE TABLE IF NOT EXISTS {database}.thinned_runs {on_cluster}
(
    project LowCardinality(String),
    run_id LowCardinality(String),
    rule String,
    thinned_at DateTime64(3, 'UTC')
)
ENGINE = {replicated}ReplacingMergeTree(thinned_at)
ORDER BY (project, run_id, rule)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;
