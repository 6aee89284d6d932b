"""Retention of runs: rules delete and thin what they name, and nothing that is still needed."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from runwire_consumers.clickhouse.tombstones import find_tombstones, hide_run
from runwire_consumers.housekeeping.retain import apply_plan, plan, thin
from runwire_consumers.housekeeping.rules import RunRule
from runwire_schemas.events import MetricBatch
from runwire_store.announce import artifact_event as artifact_event_of
from runwire_store.catalog import Catalog
from runwire_store.memory import MemoryObjectStore
from support.builders import artifact_event, run_event
from support.faults import wait_for
from support.stored import put_artifact

pytestmark = pytest.mark.fault

Points = Callable[..., MetricBatch]
DAY_NS = 86_400_000_000_000
PENDING = "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND NOT is_done"
SERIES = "SELECT step, value FROM v_metrics WHERE run_id = '{}' ORDER BY metric, step, seq"


def ended_run(run_id: str, days: float, status: str = "finished", **fields: Any) -> list[Any]:
    """A run that ended so many days ago."""
    over_ns = time.time_ns() - round(days * DAY_NS)
    start = run_event(run_id=run_id, writer=run_id, at_ns=over_ns - 1000, **fields)
    end = {"event": "finished", "status": status, "seq": 9, "at_ns": over_ns}
    return [start, replace(start, **end)]


def acted_on(client: Any, *rules: RunRule) -> dict[str, list[str]]:
    """What the rules do, by run."""
    done: dict[str, list[str]] = {}
    for it in plan(client, rules):
        done.setdefault(it.run_id, []).append(it.kept_for or it.rule.text)
    return done


def test_rules_choose_runs_by_age_state_project_and_tag(feed: Any) -> None:
    """Each condition narrows the runs, and a run that still runs fits no rule."""
    feed.write(
        *ended_run("old", 10),
        *ended_run("young", 1),
        *ended_run("failed", 10, "failed"),
        *ended_run("tagged", 10, tags={"keep": "", "sweep": "3"}),
        *ended_run("other", 10, project="other"),
        run_event(run_id="running", writer="running", at_ns=time.time_ns()),
    )

    def chosen(**conditions: Any) -> set[str]:
        rule = RunRule(action="delete", **{"older_than_s": 5 * 86_400.0, **conditions})
        return set(acted_on(feed.client, rule))

    assert chosen() == {"old", "failed", "tagged", "other"}
    assert chosen(older_than_s=0.0) == {"old", "failed", "tagged", "other", "young"}
    assert chosen(states=("failed",)) == {"failed"}
    assert chosen(project="other") == {"other"}
    assert chosen(tag="sweep") == chosen(tag="sweep=3") == {"tagged"}
    assert chosen(tag="sweep=4") == set()
    assert chosen(without_tag="keep", project="tests") == {"old", "failed"}
    assert acted_on(feed.client) == {}


def test_runs_with_promoted_or_used_artifacts_are_kept(feed: Any) -> None:
    """An alias moves the protection with it, and a deleted user no longer protects."""
    store = MemoryObjectStore()
    for number, run_id in enumerate(("first", "second", "plain")):
        made = put_artifact(
            store,
            number,
            project="tests",
            run_id=run_id,
            aliases=() if run_id == "plain" else ("prod",),
        )
        feed.write(*ended_run(run_id, 10), artifact_event_of(made, "complete", at_ns=1))
    rule = RunRule(action="delete", older_than_s=86_400.0)
    kept = acted_on(feed.client, rule)
    assert kept == {"first": ["delete"], "second": ["data:prod"], "plain": ["delete"]}
    used = artifact_event(
        run_id="user", event="used", artifact=made.artifact, name=made.name, seq=7
    )
    feed.write(*ended_run("user", 0.5), used)
    assert acted_on(feed.client, rule)["plain"] == ["data (used by user)"]
    planned = plan(feed.client, [rule])
    apply_plan(feed.client, store, planned)
    assert feed.rows("SELECT run_id FROM v_runs ORDER BY run_id") == [
        ("plain",),
        ("second",),
        ("user",),
    ]
    assert {one.manifest.run_id for one in Catalog(store).artifacts("tests")} == {"plain", "second"}
    apply_plan(feed.client, store, planned)  # as if it had been interrupted before its end
    assert len(find_tombstones(feed.client, "first")) == 1
    hide_run(feed.client, "tests", "user")
    assert acted_on(feed.client, rule)["plain"] == ["delete"]


def expected(values: dict[int, float], rule: RunRule) -> set[int]:
    """The steps that the rule keeps, computed apart from it."""
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    if rule.keep_every:
        kept = {step for step in values if step % rule.keep_every == 0}
        kept |= {min(values), max(values)}
        broken = [step for step in values if step not in finite]
        return kept | set(broken[:1])
    kept = set()
    for bucket in {step // rule.bucket for step in values}:
        steps = [step for step in values if step // rule.bucket == bucket]
        good = [step for step in steps if step in finite]
        kept.add(max(steps))
        kept |= {
            step for step in steps if step not in finite and step == min(set(steps) - set(good))
        }
        if good:
            kept.add(min(good, key=lambda step: (finite[step], step)))
            kept.add(max(good, key=lambda step: (finite[step], step)))
    return kept


@pytest.mark.parametrize("how", [{"keep_every": 7}, {"bucket": 10}])
def test_thinning_keeps_the_points_of_the_rule_whatever_interrupts_it(
    how: dict[str, int], feed: Any, points: Points, seed: int
) -> None:
    """Sent twice over several parts, it leaves the same points; other runs keep theirs."""
    rng = random.Random(f"{seed} {how}")
    values = {step: rng.choice([rng.random(), math.nan, math.inf, 2.0]) for step in range(200)}
    for first in range(0, 200, 50):
        some = [(step, step, values[step]) for step in range(first, first + 50)]
        for run_id in ("old", "other"):
            feed.write(points(some, run_id=run_id))
    feed.write(*ended_run("old", 10), *ended_run("other", 0))
    rule = RunRule(action="thin", older_than_s=86_400.0, **how)
    latest = feed.rows("SELECT * FROM v_latest ORDER BY run_id")
    feed.client.command("SYSTEM STOP MERGES metrics")
    thin(feed.client, [("tests", "old")], rule)
    thin(feed.client, [("tests", "old")], rule)
    feed.client.command("SYSTEM START MERGES metrics")
    wait_for("the deletions", lambda: feed.row(PENDING) == (0,))
    left = feed.rows(SERIES.format("old"))
    assert [step for step, _ in left] == sorted(expected(values, rule))
    assert all(value == values[step] or math.isnan(values[step]) for step, value in left)
    assert len(feed.rows(SERIES.format("other"))) == 200
    assert str(feed.rows("SELECT * FROM v_latest ORDER BY run_id")) == str(latest)
    assert feed.rows("SELECT stored FROM v_completeness WHERE run_id = 'old'") == [(200,)]


def test_thinned_run_is_thinned_again_only_after_it_was_resumed(feed: Any, points: Points) -> None:
    """The note of a rule holds as long as the run has no later end."""
    feed.write(*ended_run("old", 10), points([(0, 0, 1.0)], run_id="old"))
    rules = [
        RunRule(action="thin", older_than_s=0.0, keep_every=10),
        RunRule(action="thin", older_than_s=0.0, bucket=100),
    ]
    assert acted_on(feed.client, *rules) == {"old": ["keep_every=10"]}
    apply_plan(feed.client, MemoryObjectStore(), plan(feed.client, rules[:1]))
    wait_for("the deletions", lambda: feed.row(PENDING) == (0,))
    assert acted_on(feed.client, *rules) == {"old": ["bucket=100"]}
    apply_plan(feed.client, MemoryObjectStore(), plan(feed.client, rules))
    wait_for("the deletions", lambda: feed.row(PENDING) == (0,))
    assert acted_on(feed.client, *rules) == {}
    late = {"attempt": "attempt-2", "writer": "later", "at_ns": time.time_ns() + DAY_NS}
    feed.write(
        run_event(run_id="old", **late),
        run_event(run_id="old", event="finished", status="finished", seq=9, **late),
    )
    rules = [RunRule(action="thin", older_than_s=-1e9, keep_every=10)]
    assert acted_on(feed.client, *rules) == {"old": ["keep_every=10"]}


def test_second_rule_thins_what_the_first_has_left_even_if_both_are_new(
    feed: Any, points: Points
) -> None:
    """A server may carry both deletions out in one pass, which would keep only what both keep."""
    values = {step: math.sin(step) for step in range(1, 1000)}
    feed.write(points([(step, step, value) for step, value in values.items()], run_id="old"))
    feed.write(*ended_run("old", 10))
    rules = [
        RunRule(action="thin", older_than_s=0.0, keep_every=10),
        RunRule(action="thin", older_than_s=0.0, bucket=100),
    ]
    feed.client.command("SYSTEM STOP MERGES metrics")
    for done in (1, 0):
        planned = plan(feed.client, rules)
        assert len(apply_plan(feed.client, MemoryObjectStore(), planned, thinning_s=0.0)) == done
    feed.client.command("SYSTEM START MERGES metrics")
    wait_for("the deletions", lambda: feed.row(PENDING) == (0,))
    apply_plan(feed.client, MemoryObjectStore(), plan(feed.client, rules))
    wait_for("the deletions", lambda: feed.row(PENDING) == (0,))
    left = {step: values[step] for step in expected(values, rules[0])}
    steps = [step for step, _ in feed.rows(SERIES.format("old"))]
    assert steps == sorted(expected(left, rules[1]))


def test_run_resumed_since_the_plan_is_neither_deleted_nor_thinned(
    feed: Any, points: Points
) -> None:
    """A plan may wait hours for a yes, or for the runs before."""
    for name in ("deleted", "thinned", "ended"):
        some = [(step, step, 1.0) for step in range(100)]
        feed.write(*ended_run(name, 10, tags={name: ""}), points(some, run_id=name, writer=name))
    planned = plan(
        feed.client,
        [
            RunRule(action="delete", older_than_s=0.0, without_tag="thinned"),
            RunRule(action="thin", older_than_s=0.0, keep_every=50),
        ],
    )
    assert len(planned) == 3
    for name in ("deleted", "thinned"):
        feed.write(run_event(run_id=name, attempt="2", writer=f"{name}-2", at_ns=time.time_ns()))
    apply_plan(feed.client, MemoryObjectStore(), planned)
    wait_for("the deletions", lambda: feed.row(PENDING) == (0,))
    left = "SELECT run_id, count() FROM v_metrics GROUP BY run_id ORDER BY run_id"
    assert feed.rows(left) == [("deleted", 100), ("thinned", 100)]


def test_clock_of_a_node_that_is_years_behind_ages_no_run(feed: Any) -> None:
    """The age counts from the end, and not before its record was read."""
    now_ns = time.time_ns()
    feed.write(*ended_run("behind", 20_000), append_at_ns=now_ns - 2 * DAY_NS)
    assert acted_on(feed.client, RunRule(action="delete", older_than_s=3 * 86_400.0)) == {}
    old = acted_on(feed.client, RunRule(action="delete", older_than_s=86_400.0))
    assert old == {"behind": ["delete"]}
