"""Retention of runs: what the rules delete and thin now, and the carrying out of it.

Runs with a promoted artifact (one with an alias other than `latest`), or with an artifact that
another run uses, are kept as they are. Everything may be interrupted and repeated.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse.tombstones import (
    RunNames,
    hide_run,
    literal,
    of_run,
    of_runs,
    remove_rows,
)
from runwire_consumers.housekeeping.purge import POLL_S
from runwire_consumers.housekeeping.rules import DELETE, THIN, RunRule
from runwire_store.releasing import delete_objects
from runwire_store.store import ObjectStore

# The hashes of the points to keep are in memory while a statement runs.
RUNS_PER_STATEMENT: Final = 20
THINNING_S: Final = 60.0

# Aliases of checkpoints are set by every save, so they promote nothing.
_PROMOTED: Final = """
SELECT project, run_id, concat(name, ':', any(alias)) FROM
(
    SELECT project, name, alias, argMax(run_id, version) AS run_id
    FROM v_artifacts ARRAY JOIN aliases AS alias
    WHERE state = 'complete' AND type != 'checkpoint' AND alias != 'latest'
    GROUP BY project, name, alias
)
GROUP BY project, run_id, name
"""
_USED: Final = """
SELECT produced_in, produced_by, any(concat(name, ' (used by ', run_id, ')')) FROM v_artifact_uses
WHERE produced_by != '' AND (produced_in, produced_by) != (project, run_id)
GROUP BY produced_in, produced_by
"""
_RUNS: Final = """
SELECT r.project AS project, r.run_id AS run_id, r.status AS status, r.tags AS tags,
    ifNull(r.finished_at, r.last_seen_at) AS over_at,
    -- By the later of two clocks: one that was years behind on a node must not age its runs.
    dateDiff('second', greatest(over_at, h.heard_at), now64(3)) AS age_s,
    t.rules AS rules
FROM (SELECT project, run_id, status, tags, finished_at, last_seen_at FROM v_runs) AS r
LEFT JOIN
(
    SELECT project, run_id, groupArray((rule, at)) AS rules
    FROM
    (
        SELECT project, run_id, rule, max(thinned_at) AS at FROM thinned_runs
        GROUP BY project, run_id, rule
    )
    GROUP BY project, run_id
) AS t ON t.project = r.project AND t.run_id = r.run_id
LEFT JOIN
(
    SELECT project, run_id, max(append_at) AS heard_at FROM run_events GROUP BY project, run_id
) AS h ON h.project = r.project AND h.run_id = r.run_id
WHERE r.status != 'running'
ORDER BY over_at, project, run_id
"""
# Of each series and attempt. A second evaluation, on what the first has left, gives the same
# points, so a statement that was interrupted between two parts may be repeated.
_KEPT: Final = """
SELECT sipHash64(project, run_id, metric, rank, point.1, point.2, point.3) FROM
(
    SELECT project, run_id, metric, rank, arrayJoin([{points}]) AS point
    FROM metrics WHERE {runs}
    GROUP BY project, run_id, metric, rank, attempt{bucket}
)
"""
_THINNING: Final = """
SELECT count() FROM system.mutations
WHERE database = currentDatabase() AND table = 'metrics' AND NOT is_done
    AND position(command, '_row_exists') > 0 AND position(command, 'arrayJoin') > 0
"""
_POINT: Final = "(step, writer, seq)"
_LAST: Final = f"argMax({_POINT}, (step, seq, writer))"
_FIRST: Final = f"argMin({_POINT}, (step, seq, writer))"
# A first NaN or infinity says when a run broke.
_BROKEN: Final = f"argMinIf({_POINT}, (step, seq, writer), NOT isFinite(value))"
_LEAST: Final = f"argMinIf({_POINT}, (value, step, seq, writer), isFinite(value))"
_GREATEST: Final = f"argMaxIf({_POINT}, (value, step, seq, writer), isFinite(value))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What the rules do to one run; with `kept_for` nothing, for that artifact."""

    project: str
    run_id: str
    status: str
    over_at: datetime
    rule: RunRule
    kept_for: str = ""


def plan(client: Client, rules: Sequence[RunRule]) -> list[Planned]:
    """Return what the rules do now, oldest runs first; a run is thinned by one rule at a time.

    Raises: an error of CALL_ERRORS.
    """
    if not rules:
        return []
    kept_for = {
        (project, run_id): artifact
        for sql in (_USED, _PROMOTED)
        for project, run_id, artifact in client.query(sql).result_rows
    }
    return [
        Planned(
            project=row["project"],
            run_id=row["run_id"],
            status=row["status"],
            over_at=row["over_at"],
            rule=rule,
            kept_for=kept_for.get((row["project"], row["run_id"]), ""),
        )
        for row in client.query(_RUNS).named_results()
        if (rule := _rule_for(row, rules)) is not None
    ]


def apply_plan(
    client: Client,
    store: ObjectStore,
    planned: Iterable[Planned],
    *,
    thinning_s: float = THINNING_S,
) -> list[Planned]:
    """Delete and thin, but not runs that were resumed since; return what was done.

    The rows go in the background. Runs are thinned some at a time; those that `thinning_s` does
    not suffice for are left to the next plan.
    Raises: StoreAway, StoreRefused; an error of CALL_ERRORS.
    Blocks: also up to `thinning_s`, for earlier points to be removed.
    """
    todo = [it for it in planned if not it.kept_for]
    done: list[Planned] = []
    for it in todo:
        if it.rule.action == DELETE and _is_as_planned(client, it):
            # Objects first: views show where content is, and must not outlive the only record.
            delete_objects(store, it.project, it.run_id)
            hide_run(client, it.project, it.run_id)
            done.append(it)
    deadline = time.monotonic() + thinning_s
    for rule in dict.fromkeys(it.rule for it in todo if it.rule.action == THIN):
        of_rule = (it for it in todo if it.rule == rule and _is_as_planned(client, it))
        while some := list(islice(of_rule, RUNS_PER_STATEMENT)):
            if not _wait_thinned(client, deadline):
                return done
            thin(client, [(it.project, it.run_id) for it in some], rule)
            done += some
    return done


def _wait_thinned(client: Client, deadline: float) -> bool:
    """Whether no points are being thinned any more, at the latest by then.

    Of two deletions that are carried out in one pass, neither sees what the other leaves: a point
    would stay only if both keep it. And the points to keep of both would be in memory at once.
    """
    while client.command(_THINNING):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def thin(client: Client, runs: Sequence[RunNames], rule: RunRule) -> None:
    """Send the deletion of the points that the rule does not keep, then note it.

    Kept are of each series and attempt the first NaN or infinity and, by `keep_every`, the first
    and last step and the multiples, or by `bucket` the least, greatest and last of each bucket.
    """
    where = of_runs(runs)
    if rule.keep_every:
        is_kept, bucket = f"step % {rule.keep_every} = 0", ""
        points = [_FIRST, _LAST, _BROKEN]
    else:
        is_kept, bucket = "0", f", intDiv(step, {rule.bucket})"
        points = [_LEAST, _GREATEST, _LAST, _BROKEN]
    kept = _KEPT.format(points=", ".join(points), runs=where, bucket=bucket)
    remove_rows(
        client,
        "metrics",
        f"{where} AND NOT ({is_kept}) "
        # Two points with one hash are both kept.
        f"AND sipHash64(project, run_id, metric, rank, step, writer, seq) NOT IN ({kept})",
    )
    values = ", ".join(
        f"({literal(project)}, {literal(run_id)}, {literal(rule.text)}, now64(3))"
        for project, run_id in runs
    )
    client.command(f"INSERT INTO thinned_runs (project, run_id, rule, thinned_at) VALUES {values}")


def _is_as_planned(client: Client, planned: Planned) -> bool:
    """Whether the run ended when it had by the plan; a plan may wait for a yes, or for others."""
    rows = client.query(
        "SELECT status, ifNull(finished_at, last_seen_at) FROM v_runs "
        f"WHERE {of_run(planned.project, planned.run_id)}"
    ).result_rows
    return [tuple(row) for row in rows] == [(planned.status, planned.over_at)]


def _rule_for(run: dict[str, Any], rules: Sequence[RunRule]) -> RunRule | None:
    """Return the first rule that deletes the run, else the next one that thins it."""
    fitting = [rule for rule in rules if _fits(run, rule)]
    for rule in fitting:
        if rule.action == DELETE:
            return rule
    # A run that was resumed after it was thinned has new points.
    thinned = {text for text, at in run["rules"] if at >= run["over_at"]}
    todo = [rule for rule in fitting if rule.text not in thinned]
    return todo[0] if todo else None


def _fits(run: dict[str, Any], rule: RunRule) -> bool:
    return (
        rule.project in ("", run["project"])
        and run["status"] in rule.states
        and run["age_s"] >= rule.older_than_s
        and (not rule.tag or _has_tag(run["tags"], rule.tag))
        and not (rule.without_tag and _has_tag(run["tags"], rule.without_tag))
    )


def _has_tag(tags: dict[str, str], wanted: str) -> bool:
    """Whether the run has the tag "name", or "name=value"."""
    name, equals, value = wanted.partition("=")
    return wanted in tags or (name in tags and (not equals or tags[name] == value))
