-- Books of writers: what is stored of a writer without a row per batch, and one insert less per batch.
-- Run on the embedded engine 26.9; written for ClickHouse server 26.8, not run there yet.

-- The first `batches` batches of the writer are stored and hold `points` points (books.py); beyond them
-- lie batches behind a gap, up to `last_batch_seq`. Rows of older versions say that nothing is known.
ALTER TABLE {database}.writer_progress {on_cluster}
    ADD COLUMN IF NOT EXISTS whole SimpleAggregateFunction(max, Tuple(batches Int64, points Int64)),
    ADD COLUMN IF NOT EXISTS last_batch_seq SimpleAggregateFunction(max, Int64);

-- The worker fills these tables itself: two views took three times as long as the insert below them.
DROP VIEW IF EXISTS {database}.writer_progress_mv {on_cluster};

DROP VIEW IF EXISTS {database}.attempts_of_batches_mv {on_cluster};

-- accepted = stored + dead_lettered + pending + what was dropped after it had been accepted (reasons
-- evicted and spool_lost; points of all other reasons were never accepted). Until a writer has said how
-- much it accepted in all, what is stored already counts as accepted: its heartbeats lag behind its
-- points. Counts of calls that failed are no points; v_runs has them.
-- Stored is what the books say; only of writers with a gap the rows of batches are added up.
CREATE OR REPLACE VIEW {database}.v_completeness {on_cluster} AS
SELECT
    c.project AS project, c.run_id AS run_id, c.rank AS rank,
    sum(ifNull(c.total, greatest(c.so_far, c.stored + dead_points))) AS accepted,
    sum(c.stored) AS stored,
    sum(toInt64(ifNull(d.points, 0)) AS dead_points) AS dead_lettered,
    sum(arraySum(mapValues(c.drops))) AS dropped,
    accepted - stored - dead_lettered
        - sum(c.drops['evicted'] + c.drops['spool_lost']) AS pending,
    sumMap(c.drops) AS dropped_by_reason
FROM
(
    SELECT
        project, run_id, rank, writer_key,
        if(max(u.whole).1 > max(u.last_batch_seq), max(u.whole).2, sum(u.points)) AS stored,
        if(max(u.ended), max(u.at_end), NULL) AS total,
        ifNull(max(u.at_heartbeat), 0) AS so_far,
        mapFilter((reason, _) -> NOT startsWith(reason, 'call:'), maxMap(u.dropped)) AS drops
    FROM
    (
        SELECT
            project, run_id, rank, writer AS writer_key, whole, last_batch_seq, toInt64(0) AS points,
            false AS ended, CAST(NULL, 'Nullable(Int64)') AS at_end, CAST(NULL, 'Nullable(Int64)') AS at_heartbeat,
            CAST(map(), 'Map(String, Int64)') AS dropped
        FROM {database}.writer_progress
        UNION ALL
        SELECT
            project, run_id, rank, writer, (0, 0), -1, toInt64(points), false, NULL, NULL, map()
        FROM {database}.batches FINAL
        WHERE (project, run_id, writer) IN (
            SELECT project, run_id, writer FROM {database}.writer_progress WHERE whole.1 <= last_batch_seq)
        UNION ALL
        SELECT
            project, run_id, rank, writer, (0, 0), -1, 0, accepted IS NOT NULL, accepted, NULL, dropped
        FROM {database}.run_events
        UNION ALL
        SELECT
            project, run_id, rank, writer, (0, 0), -1, 0, false, NULL, accepted, dropped
        FROM {database}.heartbeat_last
    ) AS u
    WHERE (project, run_id) NOT IN (SELECT project, run_id FROM {database}.deleted_runs)
    GROUP BY project, run_id, rank, writer_key
) AS c
LEFT JOIN
(
    SELECT writer AS writer_key, sum(points) AS points FROM {database}.dead_letters FINAL GROUP BY writer
) AS d ON d.writer_key = c.writer_key
GROUP BY project, run_id, rank
SETTINGS use_skip_indexes_if_final_exact_mode = 0;
