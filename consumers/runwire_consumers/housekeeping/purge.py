"""The purge: removal of the rows of deleted runs, by the server in the background.

Each step is repeated until its effect is seen, so it may be interrupted anywhere: rows that are
still readable get a deletion, one statement per table for all runs; a run without rows moves from
`deleted_runs` to `purged_runs`; a mark there is forgotten when no record can be that late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.tombstones import (
    LONG_STATEMENT,
    REMOVABLE,
    RESTORING,
    RUN_TABLES,
    RunNames,
    hide_run,
    of_runs,
    remove_rows,
)
from runwire_disk.spool.format import SpoolError
from runwire_disk.spool.reader import list_folders, read_meta

# Longest time for which a worker that did not know of the deletion can still be writing: it looks
# every 5 s, but one batch may take twenty statements of two minutes.
SETTLE_S: Final = 3600.0
POLL_S: Final = 0.2
RUNS_PER_STATEMENT: Final = 1000

RowsLeft = dict[RunNames, dict[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeReport:
    """What one round found and did.

    `left` counts the rows that were readable before it, by run and table; `sent` are the tables
    that got a deletion, `waiting` those where an earlier one is not carried out yet, with the
    server's reason if it has failed.
    """

    left: RowsLeft
    sent: tuple[str, ...]
    waiting: dict[str, str]
    settled: tuple[RunNames, ...]
    returned: tuple[RunNames, ...]
    forgotten: int


def purge(
    client: Client,
    *,
    forget_s: float,
    spooled: Collection[RunNames] = (),
    settle_s: float = SETTLE_S,
) -> PurgeReport:
    """Do one round; it does not wait for the deletions.

    `spooled` are runs with files in a spool, whose marks are kept.
    Raises: an error of CALL_ERRORS.
    """
    returned = hide_returned(client)
    left, sent, waiting = send_deletions(client)
    settled = settle(client, settle_s=settle_s)
    forgotten = forget(client, forget_s=forget_s, spooled=spooled)
    return PurgeReport(
        left=left,
        sent=sent,
        waiting=waiting,
        settled=settled,
        returned=returned,
        forgotten=forgotten,
    )


def count_rows(client: Client, condition: str = REMOVABLE) -> RowsLeft:
    """Return the readable rows of the runs of the condition, by run and table."""
    left: RowsLeft = {}
    selects = [
        f"SELECT project, run_id, '{table}', count() FROM {table} WHERE {condition} "
        "GROUP BY project, run_id"
        for table in RUN_TABLES
    ]
    found = client.query(" UNION ALL ".join(selects), settings=LONG_STATEMENT)
    for project, run_id, table, count in found.result_rows:
        left.setdefault((project, run_id), {})[table] = count
    return left


def send_deletions(
    client: Client, condition: str = REMOVABLE
) -> tuple[RowsLeft, tuple[str, ...], dict[str, str]]:
    """Send one deletion to each table with rows left that has none on its way.

    `condition` narrows whose rows are looked for; a deletion is always for all deleted runs.
    Returns the rows left, the tables, and those where an earlier deletion is on its way with the
    reason of its last failure.
    """
    # Before the rows: one that ends in between is then not taken for one that left rows.
    rows = client.query(
        "SELECT table, max(latest_fail_reason) FROM system.mutations "
        "WHERE database = currentDatabase() AND NOT is_done "
        "AND position(command, '_row_exists') > 0 AND position(command, 'deleted_runs') > 0 "
        "GROUP BY table"
    ).result_rows
    waiting = {str(table): str(reason) for table, reason in rows}
    left = count_rows(client, condition)
    found = {table for counts in left.values() for table in counts}
    sent = tuple(table for table in RUN_TABLES if table in found and table not in waiting)
    for table in sent:
        remove_rows(client, table, REMOVABLE)
    return left, sent, {table: waiting[table] for table in RUN_TABLES if table in waiting}


def settle(client: Client, *, settle_s: float = SETTLE_S) -> tuple[RunNames, ...]:
    """Move the marks of runs without rows to `purged_runs`; return the runs.

    Only marks older than `settle_s`: until then a worker may still be writing.
    """
    cutoff = client.command(
        f"SELECT toString(now64(3, 'UTC') - toIntervalMillisecond({_ms(settle_s)}))"
    )
    old = client.query(
        "SELECT project, run_id FROM deleted_runs GROUP BY project, run_id "
        f"HAVING max(deleted_at) <= toDateTime64('{cutoff}', 3, 'UTC') "
        f"AND argMax(state, deleted_at) != '{RESTORING}'"
    ).result_rows
    runs: list[RunNames] = [(project, run_id) for project, run_id in old]
    settled: list[RunNames] = []
    for some in _chunks(runs):
        with_rows = count_rows(client, of_runs(some))
        gone = [run for run in some if run not in with_rows]
        if not gone:
            continue
        # First the new mark: a run that has both is hidden, and the next round moves it again.
        client.command(
            "INSERT INTO purged_runs (project, run_id, deleted_at, purged_at) "
            "SELECT project, run_id, max(deleted_at), now64(3) FROM deleted_runs "
            f"WHERE {of_runs(gone)} GROUP BY project, run_id "
            # Not one that is being brought back since it was looked at.
            f"HAVING argMax(state, deleted_at) != '{RESTORING}'",
            settings=LONG_STATEMENT,
        )
        remove_rows(
            client,
            "deleted_runs",
            # A mark that was set meanwhile is newer, and stays.
            f"{of_runs(gone)} AND deleted_at <= toDateTime64('{cutoff}', 3, 'UTC')",
        )
        settled += gone
    return tuple(settled)


def hide_returned(client: Client) -> tuple[RunNames, ...]:
    """Mark purged runs that have rows again as deleted; return them.

    A worker that was stopped for longer than SETTLE_S within a batch may have written them.
    """
    found = client.query(
        "SELECT DISTINCT project, run_id FROM attempts "
        "WHERE (project, run_id) IN (SELECT project, run_id FROM purged_runs) "
        "AND (project, run_id) NOT IN (SELECT project, run_id FROM deleted_runs)"
    ).result_rows
    returned = []
    for project, run_id in found:
        # Again: `unarchive` takes this mark away before it brings rows back.
        is_purged = client.command(
            f"SELECT count() FROM purged_runs WHERE {of_runs([(project, run_id)])}"
        )
        if is_purged:
            hide_run(client, project, run_id)
            returned.append((project, run_id))
    return tuple(returned)


def forget(client: Client, *, forget_s: float, spooled: Collection[RunNames] = ()) -> int:
    """Forget purged runs that are older, and not in the spool; return how many."""
    where = (
        f"purged_at <= now64(3) - toIntervalMillisecond({_ms(forget_s)}) "
        "AND (project, run_id) NOT IN (SELECT project, run_id FROM deleted_runs)"
    )
    if spooled:
        where += f" AND NOT {of_runs(sorted(spooled))}"
    sql = f"SELECT uniqExact(project, run_id) FROM purged_runs WHERE {where}"
    count = int(str(client.command(sql, settings=LONG_STATEMENT)))
    if count:
        remove_rows(client, "purged_runs", where)
    return count


def spooled_runs(root: Path) -> set[RunNames]:
    """Return the runs with files in the spool of this data root, whose records may still come."""
    runs = set()
    for folder in list_folders(root):
        try:
            meta = read_meta(folder)
        except (OSError, SpoolError):
            continue  # removed just now, or one that `spool verify` reports
        runs.add((meta.project, meta.run_id))
    return runs


def wait_until_purged(
    client: Client, runs: Collection[RunNames], report: Callable[[int, dict[str, str]], None]
) -> None:
    """Return when no row of the runs is readable; send deletions as long as there are some.

    `report` gets the rows left and the reasons of failed deletions whenever they change.
    Blocks: until then, which includes a merge that runs now.
    """
    condition = f"{of_runs(runs)} AND {REMOVABLE}"
    before: tuple[int, dict[str, str]] | None = None
    while True:
        left, _, waiting = send_deletions(client, condition)
        count = sum(sum(counts.values()) for counts in left.values())
        if not count:
            return
        now = (count, {table: reason for table, reason in waiting.items() if reason})
        if now != before:
            report(*now)
            before = now
        time.sleep(POLL_S)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _chunks(runs: Iterable[RunNames]) -> Iterable[list[RunNames]]:
    rest = iter(runs)
    while some := list(islice(rest, RUNS_PER_STATEMENT)):
        yield some
