-- Views of artifacts and checkpoints that cost what is asked for. A filter on project and run_id passes a
-- GROUP BY, a PARTITION BY and a JOIN only by columns that are keys of all of them: so nothing here
-- spans more than a run, except versions and `latest`, which span the names of a project.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.

-- How far each artifact came, by name: what says which of a name is the latest without reading what else
-- is known of all artifacts. A replay changes none of the aggregates.
CREATE TABLE IF NOT EXISTS {database}.artifact_heads {on_cluster}
(
    project LowCardinality(String),
    name_key UInt64,
    artifact String,
    run_id SimpleAggregateFunction(any, LowCardinality(String)),
    stamp SimpleAggregateFunction(min, Nullable(Int64)),
    is_complete SimpleAggregateFunction(max, UInt8),
    is_gone SimpleAggregateFunction(max, UInt8)
)
ENGINE = {replicated}AggregatingMergeTree
ORDER BY (project, name_key, artifact)
SETTINGS non_replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS {database}.artifact_heads_mv {on_cluster}
TO {database}.artifact_heads AS
SELECT
    project, sipHash64(name) AS name_key, artifact, any(run_id) AS run_id, min(version_at_ns) AS stamp,
    max(event = 'complete') AS is_complete, max(event = 'deleted') AS is_gone
FROM {database}.artifacts
WHERE event != 'used'
GROUP BY project, name_key, artifact;

-- What was stored before this migration; a repeat changes no aggregate.
INSERT INTO {database}.artifact_heads (project, name_key, artifact, run_id, stamp, is_complete, is_gone)
SELECT
    project, sipHash64(name) AS name_key, artifact, any(run_id), min(version_at_ns),
    max(event = 'complete'), max(event = 'deleted')
FROM {database}.artifacts
WHERE event != 'used'
GROUP BY project, name_key, artifact;

-- Parts that are there already get it when they are merged.
ALTER TABLE {database}.artifacts {on_cluster}
    ADD INDEX IF NOT EXISTS by_name name TYPE bloom_filter GRANULARITY 1;

-- What is known of an artifact by its own events, which all have its name.
CREATE OR REPLACE VIEW {database}.artifact_states {on_cluster} AS
SELECT
    project, run_id, name, artifact,
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
    any(e.attempt) AS attempt_key,
    min(e.at) AS logged_at,
    maxOrNullIf(e.at, e.event = 'complete') AS completed_at,
    maxIf(e.duration_s, e.event = 'complete') AS duration_s,
    ['pending', 'pending', 'failed', 'complete', 'deleted'][max(e.weight)] AS state
FROM
(
    -- The event that says most wins, field by field where it says nothing.
    SELECT *, indexOf(['logged', 'shipped', 'failed', 'complete', 'deleted'], event) AS weight
    FROM {database}.artifacts FINAL
    WHERE event != 'used' AND (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
) AS e
GROUP BY project, run_id, name, artifact
SETTINGS use_skip_indexes_if_final_exact_mode = 0;

-- Versions of a name are counted from 0 in the order of their stamps, those of deleted runs too. The
-- store counts the same entries, so both say the same number.
CREATE OR REPLACE VIEW {database}.artifact_versions {on_cluster} AS
SELECT
    project, name_key, artifact, stamp,
    toInt32(dense_rank() OVER (PARTITION BY project, name_key ORDER BY stamp) - 1) AS version
FROM
(
    -- Of an artifact that two processes published at once the first stamp counts.
    SELECT project, name_key, artifact, min(s.stamp) AS stamp
    FROM {database}.artifact_stamps AS s
    GROUP BY project, name_key, artifact
);

-- One row per artifact.
CREATE OR REPLACE VIEW {database}.v_artifacts {on_cluster} AS
SELECT
    k.run_id AS run_id, k.project AS project, k.name AS name,
    if(v.stamp = 0, NULL, v.version) AS version,
    k.type AS type,
    if(k.state = 'complete' AND v.stamp = n.stamp, arrayPushFront(k.said_aliases, 'latest'), k.said_aliases) AS aliases,
    k.uri AS uri, k.bytes AS bytes, k.sha256 AS sha256, k.state AS state,
    k.reason AS reason, k.files AS files, k.route AS route, k.metadata AS metadata,
    k.logged_at AS logged_at, k.completed_at AS completed_at, k.duration_s AS duration_s,
    k.artifact AS artifact, k.rank AS rank, a.attempt AS attempt
FROM {database}.artifact_states AS k
LEFT JOIN {database}.v_attempts AS a
    ON a.project = k.project AND a.run_id = k.run_id AND a.attempt_key = k.attempt_key
LEFT JOIN {database}.artifact_versions AS v
    ON v.project = k.project AND v.name_key = sipHash64(k.name) AND v.artifact = k.artifact
LEFT JOIN
(
    SELECT project, name_key, max(h.stamp) AS stamp
    FROM
    (
        SELECT project, name_key, artifact, ifNull(min(g.stamp), 0) AS stamp, any(g.run_id) AS run_id
        FROM {database}.artifact_heads AS g
        GROUP BY project, name_key, artifact
        HAVING max(g.is_complete) AND NOT max(g.is_gone)
    ) AS h
    WHERE (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
    GROUP BY project, name_key
) AS n ON n.project = k.project AND n.name_key = sipHash64(k.name);

-- Lineage: which run used what, and who made it.
CREATE OR REPLACE VIEW {database}.v_artifact_uses {on_cluster} AS
SELECT
    u.run_id AS run_id, u.project AS project, u.name AS name, if(v.stamp = 0, NULL, v.version) AS version,
    u.type AS type, u.at AS used_at, a.run_id AS produced_by, a.project AS produced_in, u.artifact AS artifact,
    u.sha256 AS sha256
FROM
(
    SELECT * FROM {database}.artifacts FINAL
    WHERE event = 'used' AND (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
) AS u
LEFT JOIN
(
    SELECT project, name_key, artifact, any(h.run_id) AS run_id
    FROM {database}.artifact_heads AS h
    WHERE artifact IN (SELECT artifact FROM {database}.artifacts WHERE event = 'used')
    GROUP BY project, name_key, artifact
    HAVING (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
) AS a ON a.artifact = u.artifact
LEFT JOIN
(
    SELECT * FROM {database}.artifact_versions
    WHERE name_key IN (SELECT sipHash64(name) FROM {database}.artifacts WHERE event = 'used')
) AS v ON v.project = a.project AND v.name_key = a.name_key AND v.artifact = a.artifact;

-- Like series_limits: a checkpoint is abandoned where a later attempt saved that step or an earlier one,
-- or resumed from an earlier checkpoint.
CREATE OR REPLACE VIEW {database}.checkpoint_limits {on_cluster} AS
SELECT
    project, run_id, one.1 AS attempt_key, one.2 AS attempt,
    arrayMin(arrayMap(other -> if(one.3 = 0 OR other.2 < one.3, 9223372036854775807, other.4), saved)) AS limit_step
FROM
(
    SELECT
        a.project AS project, a.run_id AS run_id,
        arrayMap(said -> (said.1, said.2, said.3, least(
            if(mapContains(c.first_steps, said.1), c.first_steps[said.1], 9223372036854775807),
            if(has(c.steps, said.4), ifNull(said.4 + 1, 9223372036854775807), 9223372036854775807))), a.said) AS saved
    FROM
    (
        SELECT
            project, run_id,
            groupArray((t.attempt_key, t.attempt, t.replaced_by, t.resumed_from_step)) AS said
        FROM {database}.v_attempts AS t
        GROUP BY project, run_id
    ) AS a
    LEFT JOIN
    (
        SELECT project, run_id, minMap(map(attempt, step)) AS first_steps, groupUniqArray(toNullable(step)) AS steps
        FROM {database}.checkpoints
        GROUP BY project, run_id
    ) AS c ON c.project = a.project AND c.run_id = a.run_id
)
ARRAY JOIN saved AS one;

-- One row per checkpoint: what all its ranks saved after one step of one attempt.
CREATE OR REPLACE VIEW {database}.v_checkpoints {on_cluster} AS
SELECT
    run_id, project, attempt, step, uri, bytes, sha256, state, metrics,
    may_be_best AND state = 'complete'
        AND saved_at = maxIf(saved_at, may_be_best AND state = 'complete') OVER (PARTITION BY project, run_id)
        AS is_best,
    saved_at, duration_s,
    is_abandoned, kind, world_size, ranks, blocked_s, raw_bytes, local_uri, reason, artifacts
FROM
(
    SELECT
        c.project AS project, c.run_id AS run_id, toInt32(greatest(t.attempt, 1)) AS attempt, c.step AS step,
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
        any(t.attempt > 0 AND c.step >= t.limit_step) AS is_abandoned,
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
            project, run_id, attempt AS attempt_key, step, rank, max(s.at) AS saved_at,
            argMax((s.artifact, s.kind, s.sha256, s.uri, s.bytes, s.raw_bytes, s.duration_s, s.blocked_s,
                s.metrics, s.is_best, s.world_size), (s.at, s.artifact)) AS newest
        FROM {database}.checkpoints AS s FINAL
        WHERE (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
        GROUP BY project, run_id, attempt_key, step, rank
    ) AS c
    LEFT JOIN {database}.checkpoint_limits AS t
        ON t.project = c.project AND t.run_id = c.run_id AND t.attempt_key = c.attempt_key
    LEFT JOIN {database}.artifact_states AS a
        ON a.project = c.project AND a.run_id = c.run_id AND a.artifact = c.newest.1
    GROUP BY project, run_id, attempt, step
);
