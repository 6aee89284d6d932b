"""Closing of runs: those that ended move from the views that compute them to a flat table.

`v_runs` computes a run from its events, heartbeats and points, which costs as much for a run of
last year as for a live one. Closed runs it only looks up. Closing is never needed for a right
answer (migration 0021 says why), so it may be late, fail, or run in several workers at once.
"""

from __future__ import annotations

import logging

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.client import CALL_ERRORS
from runwire_consumers.core.clock import Clock
from runwire_schemas.connections.clickhouse import first_line

log = logging.getLogger(__name__)

# An insert becomes visible at the latest this long after the server stamped its rows: a worker
# waits two minutes for an answer (client.py). A run that was touched since then is not closed.
QUIET_S = 900
# Between two closings of a worker; each reads three columns of all runs.
EVERY_S = 300
# Bounds the memory of the first closing of a large database; the next ones go on.
_RUNS_MAX = 5000

_COLUMNS = """
    run_id, project, name, `group`, job_type, status, status_reason, attempt, world_size, tags,
    started_at, finished_at, last_step, last_progress_at, last_seen_at, parent_run_id,
    first_started_at, resumed_from_step, exit_code, writers, notes, environment, summary,
    metric_defs, second_writers, dropped"""
_CLOSE = """
INSERT INTO runs_closed ({columns}, closed_at)
SELECT {columns}, now64(3) AS closed_at FROM runs_open
WHERE status != 'running' AND (project, run_id) IN (
    SELECT project, run_id FROM run_touches
    WHERE (project, run_id) IN (SELECT project, run_id FROM open_now)
    GROUP BY project, run_id
    HAVING max(stored_at) < now64(3) - toIntervalSecond({quiet_s})
    ORDER BY max(stored_at) LIMIT {runs_max})
"""
# The empty name makes a list of no open runs a list too.
_LIST = """
INSERT INTO open_runs
WITH now64(3) - toIntervalSecond({quiet_s}) AS since
SELECT since, project, run_id
FROM (
    SELECT project, run_id, stored_at, toDateTime64(0, 3, 'UTC') AS closed_at FROM run_touches
    UNION ALL
    SELECT project, run_id, toDateTime64(0, 3, 'UTC'), closed_at FROM runs_closed
)
GROUP BY project, run_id
HAVING max(stored_at) >= max(closed_at) - toIntervalSecond({quiet_s})
UNION ALL
SELECT since, '', ''
"""
# A list is seen as a whole: it is one block, hence one part.
_ONE_BLOCK = {"max_insert_threads": 1, "min_insert_block_size_rows": 10**8}
_ONE_BLOCK |= {"min_insert_block_size_bytes": 2**31}


def close_runs(client: Client, *, quiet_s: int = QUIET_S) -> None:
    """Close the runs that ended or went silent and were not touched for `quiet_s`.

    Raises: the errors of client.py's CALL_ERRORS. Blocks: until ClickHouse answers.
    """
    close = _CLOSE.format(columns=_COLUMNS, quiet_s=quiet_s, runs_max=_RUNS_MAX)
    client.command(close, settings={"insert_deduplicate": 0})
    client.command(_LIST.format(quiet_s=quiet_s), settings=_ONE_BLOCK)


class RunCloser:
    """Closes runs every few minutes. Threads: one at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._closed_at_s = clock.monotonic_s()

    def close_if_due(self, client: Client) -> None:
        """Close runs when the last time is long enough ago; a failure waits for the next time."""
        now_s = self._clock.monotonic_s()
        if now_s - self._closed_at_s < EVERY_S:
            return
        self._closed_at_s = now_s
        try:
            close_runs(client)
        except CALL_ERRORS as error:
            log.warning("closing of ended runs is put off: %s", first_line(error))
