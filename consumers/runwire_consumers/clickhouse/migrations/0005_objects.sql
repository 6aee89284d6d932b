-- Artifacts and checkpoints; see 0001 for the rules of tables and 0003 for those of views.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.

-- What happened to an artifact, once each: logged, shipped, complete, failed, deleted; and used, which
-- is of the run that used it.
CREATE TABLE IF NOT EXISTS {database}.artifacts {on_cluster}
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
ORDER BY (run_key, artifact, event)
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

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.artifact_stamps_mv {on_cluster}
TO {database}.artifact_stamps AS
SELECT project, sipHash64(name) AS name_key, artifact, assumeNotNull(version_at_ns) AS stamp
FROM {database}.artifacts
WHERE event != 'used' AND version_at_ns IS NOT NULL;

-- What each rank saved; whether it can be had says the artifact.
CREATE TABLE IF NOT EXISTS {database}.checkpoints {on_cluster}
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
ORDER BY (run_key, step, attempt, rank, artifact)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per artifact. Versions of a name are counted from 0 in the order of their stamps, those of
-- deleted runs too. The store counts the same entries, so both say the same number.
CREATE OR REPLACE VIEW {database}.v_artifacts {on_cluster} AS
SELECT
    k.run_id AS run_id, k.project AS project, k.name AS name,
    if(v.stamp = 0, NULL, v.version) AS version,
    k.type AS type,
    if(k.state = 'complete'
        AND v.stamp = maxIf(v.stamp, k.state = 'complete') OVER (PARTITION BY k.project, k.name),
        arrayPushFront(k.said_aliases, 'latest'), k.said_aliases) AS aliases,
    k.uri AS uri, k.bytes AS bytes, k.sha256 AS sha256, k.state AS state,
    k.reason AS reason, k.files AS files, k.route AS route, k.metadata AS metadata,
    k.logged_at AS logged_at, k.completed_at AS completed_at, k.duration_s AS duration_s,
    k.artifact AS artifact, k.rank AS rank, k.attempt AS attempt, k.run_key AS run_key
FROM
(
    SELECT
        e.project AS project, e.run_id AS run_id, e.run_key AS run_key, e.artifact AS artifact,
        argMax(e.name, e.weight) AS name,
        argMax(e.type, e.weight) AS type,
        argMaxIf(e.aliases, e.weight, e.has_aliases) AS said_aliases,
        argMaxIf(e.uri, e.weight, e.uri != '') AS uri,
        argMax(e.bytes, e.weight) AS bytes,
        argMaxIf(e.sha256, e.weight, e.sha256 != '') AS sha256,
        argMax(e.files, e.weight) AS files,
        argMax(e.route, e.weight) AS route,
        argMaxIf(e.metadata, e.weight, e.metadata != '') AS metadata,
        argMax(tuple(e.reason), e.weight).1 AS reason,
        any(e.rank) AS rank,
        any(a.attempt) AS attempt,
        min(e.at) AS logged_at,
        maxOrNullIf(e.at, e.event = 'complete') AS completed_at,
        maxIf(e.duration_s, e.event = 'complete') AS duration_s,
        multiIf(
            countIf(e.event = 'deleted') > 0, 'deleted',
            countIf(e.event = 'complete') > 0, 'complete',
            countIf(e.event = 'failed') > 0, 'failed',
            'pending') AS state
    FROM
    (
        -- The event that says most wins, field by field where it says nothing.
        SELECT *, indexOf(['logged', 'shipped', 'failed', 'complete', 'deleted'], event) AS weight
        FROM {database}.artifacts FINAL
        WHERE event != 'used' AND run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
    ) AS e
    LEFT JOIN {database}.v_attempts AS a ON a.run_key = e.run_key AND a.attempt_key = e.attempt
    GROUP BY project, run_id, run_key, artifact
) AS k
LEFT JOIN
(
    SELECT
        project, name_key, artifact, stamp,
        toInt32(dense_rank() OVER (PARTITION BY project, name_key ORDER BY stamp) - 1) AS version
    FROM
    (
        -- Of an artifact that two processes published at once the first stamp counts.
        SELECT project, name_key, artifact, min(s.stamp) AS stamp
        FROM {database}.artifact_stamps AS s
        GROUP BY project, name_key, artifact
    )
) AS v ON v.project = k.project AND v.name_key = sipHash64(k.name) AND v.artifact = k.artifact;

-- Lineage: which run used what, and who made it.
CREATE OR REPLACE VIEW {database}.v_artifact_uses {on_cluster} AS
SELECT
    u.run_id AS run_id, u.project AS project, u.name AS name, a.version AS version, u.type AS type,
    u.at AS used_at, a.run_id AS produced_by, a.project AS produced_in, u.artifact AS artifact,
    u.sha256 AS sha256, u.run_key AS run_key
FROM
(
    SELECT * FROM {database}.artifacts FINAL
    WHERE event = 'used' AND run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
) AS u
LEFT JOIN {database}.v_artifacts AS a ON a.artifact = u.artifact;

-- One row per checkpoint: what all its ranks saved after one step of one attempt. The best is the
-- newest good one (complete, no metric NaN or infinite) that was marked. Where none is marked the store
-- knows the best by the metric of the run's retention, which no event carries: is_best is then 0.
CREATE OR REPLACE VIEW {database}.v_checkpoints {on_cluster} AS
SELECT
    run_id, project, attempt, step, uri, bytes, sha256, state, metrics,
    may_be_best AND state = 'complete'
        AND saved_at = maxIf(saved_at, may_be_best AND state = 'complete') OVER (PARTITION BY project, run_id, run_key)
        AS is_best,
    saved_at, duration_s,
    is_abandoned, kind, world_size, ranks, blocked_s, raw_bytes, local_uri, reason, artifacts, run_key
FROM
(
    SELECT
        c.project AS project, c.run_id AS run_id, c.run_key AS run_key, t.attempt AS attempt, c.step AS step,
        argMin(ifNull(nullIf(a.uri, ''), c.newest.4), c.rank) AS uri,
        sum(c.newest.5) AS bytes,
        -- Of files that others wrote the agent computes it.
        if(count() = 1, any(ifNull(nullIf(c.newest.3, ''), a.sha256)), '') AS sha256,
        multiIf(
            countIf(a.state = 'deleted') > 0, 'deleted',
            countIf(a.state = 'failed') > 0, 'failed',
            countIf(a.state = 'complete') >= if(any(c.newest.2) = 'sharded', max(c.newest.11), 1), 'complete',
            'pending') AS state,
        argMin(c.newest.9, c.rank) AS metrics,
        max(c.newest.10) AND arrayAll(value -> isFinite(value), mapValues(metrics)) AS may_be_best,
        max(c.saved_at) AS saved_at,
        max(c.newest.7) AS duration_s,
        any(c.step > t.counts_to_step) AS is_abandoned,
        any(c.newest.2) AS kind,
        toInt32(max(c.newest.11)) AS world_size,
        toInt32(count()) AS ranks,
        max(c.newest.8) AS blocked_s,
        sum(c.newest.6) AS raw_bytes,
        argMin(c.newest.4, c.rank) AS local_uri,
        anyIf(a.reason, a.reason IS NOT NULL) AS reason,
        groupArray(c.newest.1) AS artifacts
    FROM
    (
        -- A step that was saved again replaces what its rank had saved before.
        SELECT
            project, run_id, run_key, attempt AS attempt_key, step, rank, max(s.at) AS saved_at,
            argMax((s.artifact, s.kind, s.sha256, s.uri, s.bytes, s.raw_bytes, s.duration_s, s.blocked_s,
                s.metrics, s.is_best, s.world_size), (s.at, s.artifact)) AS newest
        FROM {database}.checkpoints AS s FINAL
        WHERE run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
        GROUP BY project, run_id, run_key, attempt_key, step, rank
    ) AS c
    LEFT JOIN {database}.v_attempts AS t ON t.run_key = c.run_key AND t.attempt_key = c.attempt_key
    LEFT JOIN {database}.v_artifacts AS a ON a.run_key = c.run_key AND a.artifact = c.newest.1
    GROUP BY project, run_id, run_key, attempt, step
);

-- Histograms travel as texts, and have a view of their own.
CREATE OR REPLACE VIEW {database}.v_logs {on_cluster} AS
SELECT
    l.project AS project, l.run_id AS run_id, l.rank AS rank, a.attempt AS attempt, l.at AS at, l.step AS step,
    l.stream AS stream, l.level AS level, l.name AS name, l.text AS text, l.seq AS seq, l.run_key AS run_key
FROM {database}.logs AS l FINAL
LEFT JOIN {database}.v_attempts AS a ON a.run_key = l.run_key AND a.attempt_key = l.attempt
WHERE l.stream != 'histogram' AND l.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

CREATE OR REPLACE VIEW {database}.v_histograms {on_cluster} AS
SELECT
    l.project AS project, l.run_id AS run_id, l.rank AS rank, a.attempt AS attempt, l.name AS name,
    l.step AS step, l.at AS at,
    JSONExtract(l.text, 'edges', 'Array(Float64)') AS edges,
    JSONExtract(l.text, 'counts', 'Array(Float64)') AS counts,
    l.step > a.counts_to_step AS is_abandoned, l.run_key AS run_key
FROM {database}.logs AS l FINAL
LEFT JOIN {database}.v_attempts AS a ON a.run_key = l.run_key AND a.attempt_key = l.attempt
WHERE l.stream = 'histogram' AND l.run_key NOT IN (SELECT run_key FROM {database}.deleted_runs)
SETTINGS use_skip_indexes_if_final_exact_mode = 0;
