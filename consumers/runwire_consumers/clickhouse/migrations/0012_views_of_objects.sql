-- Views of artifacts and checkpoints; see 0010 for the rules.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.

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
    k.artifact AS artifact, k.rank AS rank, k.attempt AS attempt
FROM
(
    SELECT
        e.project AS project, e.run_id AS run_id, e.artifact AS artifact,
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
        WHERE event != 'used' AND (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
    ) AS e
    LEFT JOIN {database}.v_attempts AS a ON a.project = e.project AND a.run_id = e.run_id AND a.attempt_key = e.attempt
    GROUP BY project, run_id, artifact
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
    u.sha256 AS sha256
FROM
(
    SELECT * FROM {database}.artifacts FINAL
    WHERE event = 'used' AND (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
) AS u
LEFT JOIN {database}.v_artifacts AS a ON a.artifact = u.artifact;

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
        groupArray((a.attempt_key, a.attempt, a.replaced_by, least(
            if(c.steps = 0, 9223372036854775807, c.first_step),
            if((a.project, a.run_id, a.resumed_from_step) IN (
                SELECT project, run_id, toNullable(step) FROM {database}.checkpoints),
                ifNull(a.resumed_from_step + 1, 9223372036854775807), 9223372036854775807)))) AS saved
    FROM {database}.v_attempts AS a
    LEFT JOIN
    (
        SELECT project, run_id, attempt AS attempt_key, min(step) AS first_step, count() AS steps
        FROM {database}.checkpoints
        GROUP BY project, run_id, attempt_key
    ) AS c ON c.project = a.project AND c.run_id = a.run_id
        AND c.attempt_key = a.attempt_key
    GROUP BY project, run_id
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
    LEFT JOIN {database}.v_artifacts AS a ON a.project = c.project AND a.run_id = c.run_id AND a.artifact = c.newest.1
    GROUP BY project, run_id, attempt, step
);
