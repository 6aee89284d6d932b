CREATE OR REPLACE VIEW {database}.v_attempts {on_cluster} AS
SELECT
    project, run_id, run_key, attempt_key, attempt_name, started_at, resumed_from_step, first_step, last_step,
    toInt32(row_number() OVER (PARTITION BY project, run_id, run_key ORDER BY started_at, attempt_key)) AS attempt,
    ifNull(min(ifNull(resumed_from_step, first_step - 1)) OVER (
        PARTITION BY project, run_id, run_key ORDER BY started_at, attempt_key
        ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), 9223372036854775807) AS counts_to_step
FROM
(
    SELECT
        project, run_id, run_key, attempt AS attempt_key,
        any(event_name) AS attempt_name,
        ifNull(min(event_started), min(first_at)) AS started_at,
        max(resumed) AS resumed_from_step,
        min(points_first) AS first_step,
        max(points_last) AS last_step
    FROM
    (
        SELECT
            project, run_id, run_key, attempt,
            CAST(attempt_name, 'Nullable(String)') AS event_name,
            CAST(started_at, 'Nullable(DateTime64(3, \'UTC\'))') AS event_started,
            resumed_from_step AS resumed,
            CAST(NULL, 'Nullable(DateTime64(3, \'UTC\'))') AS first_at,
            CAST(NULL, 'Nullable(Int64)') AS points_first,
            CAST(NULL, 'Nullable(Int64)') AS points_last
        FROM {database}.attempts
        UNION ALL
        SELECT
            project, run_id, run_key, attempt, NULL, NULL, NULL,
            CAST(first_at, 'Nullable(DateTime64(3, \'UTC\'))'), CAST(first_step, 'Nullable(Int64)'), CAST(last_step, 'Nullable(Int64)')
        FROM {database}.writer_progress
    )
    GROUP BY project, run_id, run_key, attempt
);
