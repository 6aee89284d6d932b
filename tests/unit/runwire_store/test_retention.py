"""Retention rules applied to arbitrary checkpoints, and on a store."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_store.catalog import Catalog
from runwire_store.checkpoints import CheckpointView
from runwire_store.layout import BLOBS
from runwire_store.memory import MemoryObjectStore
from runwire_store.retention import (
    Retention,
    RetentionError,
    best_of,
    expired,
)
from support.effort import examples
from support.stored import AT_NS, SECOND, checkpoint, put_checkpoint, retire

HOUR = 3600 * SECOND


def saved_at(
    step: int,
    saved_at_ns: int,
    *,
    is_complete: bool = True,
    is_best: bool = False,
    metrics: Mapping[str, float] | None = None,
) -> CheckpointView:
    """A checkpoint with these facts; an incomplete one lacks the part of rank 1."""
    part = checkpoint(
        1,
        step,
        created_at_ns=saved_at_ns,
        kind="full" if is_complete else "sharded",
        world_size=1 if is_complete else 2,
        is_best=is_best,
        metrics=metrics or {},
    )
    return CheckpointView(step=step, attempt=part.attempt, manifests={0: part})


def completed(view: CheckpointView) -> CheckpointView:
    """The same checkpoint with all its parts."""
    return saved_at(view.step, view.saved_at_ns, is_best=view.is_best, metrics=view.metrics)


LOSSES = st.one_of(st.floats(0, 5), st.sampled_from([math.nan, math.inf, 1.0]))
METRICS = st.dictionaries(st.sampled_from(["loss", "acc"]), LOSSES, max_size=2)
SAVED = st.builds(
    saved_at,
    step=st.integers(0, 60),
    saved_at_ns=st.integers(0, 10**6),
    is_complete=st.booleans(),
    is_best=st.booleans(),
    metrics=METRICS,
)
# Steps of a run grow with time but for what a restarted attempt repeats.
LISTS = st.lists(SAVED, max_size=14, unique_by=lambda saved: saved.saved_at_ns)
RULES = st.builds(
    Retention,
    keep_last=st.integers(0, 4),
    keep_best=st.integers(0, 3),
    metric=st.sampled_from(["", "loss", "acc"]),
    mode=st.sampled_from(["min", "max"]),
    keep_every=st.sampled_from([0, 1, 5, 10]),
)


def kept(saved: list[CheckpointView], rules: Retention) -> list[CheckpointView]:
    gone = expired(saved, rules)
    assert all(any(view is known for known in saved) for view in gone)
    return sorted((s for s in saved if s not in gone), key=lambda s: s.saved_at_ns)


@settings(max_examples=examples(60))
@given(LISTS, RULES)
def test_retention_keeps_the_newest_good_and_the_newest_marked_checkpoint(
    saved: list[CheckpointView], rules: Retention
) -> None:
    """Hence never the only good one goes; nor the newest good one marked as best."""
    left = kept(saved, rules)
    good = sorted(filter(lambda s: s.is_good, saved), key=lambda s: s.saved_at_ns)
    assert set(map(id, good[-1:])) <= set(map(id, left))
    marked = [s for s in good if s.is_best]
    assert set(map(id, marked[-1:])) <= set(map(id, left))


@settings(max_examples=examples(60))
@given(LISTS, RULES)
def test_retention_keeps_the_last_n_and_every_mth_step(
    saved: list[CheckpointView], rules: Retention
) -> None:
    """Complete ones: the last N by time, good or not, and each step that M divides."""
    left = kept(saved, rules)
    complete = sorted((s for s in saved if s.is_complete), key=lambda s: s.saved_at_ns)
    if rules.keep_last:
        assert all(s in left for s in complete[-rules.keep_last :])
    if rules.keep_every:
        assert all(s in left for s in complete if s.step % rules.keep_every == 0)


@settings(max_examples=examples(60))
@given(LISTS, RULES)
def test_retention_keeps_the_k_best_by_metric(
    saved: list[CheckpointView], rules: Retention
) -> None:
    """No good one that went is better than one of the K best that stayed."""
    left = kept(saved, rules)
    measured = [s for s in saved if s.is_good and rules.metric in s.metrics]
    if not rules.keep_best or not rules.metric or not measured:
        return
    sign = 1 if rules.mode == "min" else -1
    values = sorted(sign * s.metrics[rules.metric] for s in measured)
    stayed = sorted(sign * s.metrics[rules.metric] for s in measured if s in left)
    assert stayed[: rules.keep_best] == values[: rules.keep_best]


@settings(max_examples=examples(60))
@given(LISTS, RULES)
def test_retention_keeps_nothing_beyond_its_rules(
    saved: list[CheckpointView], rules: Retention
) -> None:
    """The rules bound what is kept; without a rule nothing goes."""
    gone = expired(saved, rules)
    if rules.keeps_all:
        assert gone == []
        return
    complete = [s for s in saved if s.is_complete]
    multiples = [s for s in complete if rules.keep_every and s.step % rules.keep_every == 0]
    left = [s for s in complete if s not in gone]
    assert len(left) <= rules.keep_last + rules.keep_best + len(multiples) + 3


@settings(max_examples=examples(60))
@given(LISTS, RULES)
def test_retention_applied_again_deletes_nothing_more(
    saved: list[CheckpointView], rules: Retention
) -> None:
    """What stayed stays: rules applied twice delete no more than once."""
    assert expired(kept(saved, rules), rules) == []


@settings(max_examples=examples(60))
@given(LISTS, RULES)
def test_incomplete_checkpoint_expires_only_if_it_would_when_complete(
    saved: list[CheckpointView], rules: Retention
) -> None:
    """An incomplete one goes only when it would go if it were complete now."""
    for gone in expired(saved, rules):
        whole = [completed(s) if s is gone else s for s in saved]
        again = expired(whole, rules)
        assert any(s.saved_at_ns == gone.saved_at_ns for s in again)


def test_a_nan_tail_does_not_push_out_the_last_good_one() -> None:
    """A training that has diverged goes on saving; what it can be rescued from stays."""
    saved = [saved_at(10, 1, metrics={"loss": 0.5})]
    saved += [saved_at(10 + n, 1 + n, metrics={"loss": math.nan}) for n in range(1, 6)]
    assert [s.step for s in kept(saved, Retention(keep_last=2))] == [10, 14, 15]


@settings(max_examples=examples(60))
@given(LISTS, RULES)
def test_retention_keeps_the_newest_complete_checkpoint_good_or_not(
    saved: list[CheckpointView], rules: Retention
) -> None:
    """Good or not: who just saved finds it, and a run with rules always has one to load."""
    complete = sorted((s for s in saved if s.is_complete), key=lambda s: s.saved_at_ns)
    assert set(map(id, complete[-1:])) <= set(map(id, kept(saved, rules)))


def test_a_metric_that_is_always_nan_deletes_no_run() -> None:
    """No validation yet, so "acc" is NaN in all of them: none is good, and one must stay."""
    saved = [saved_at(n, n, metrics={"loss": 1 / n, "acc": math.nan}) for n in range(1, 5)]
    assert [s.step for s in kept(saved, Retention(keep_best=1, metric="loss"))] == [4]


def test_best_prefers_a_newer_mark_to_an_older_and_to_a_metric() -> None:
    """A mark wins over a metric, a newer mark over an older; NaN is never the best."""
    saved = [saved_at(n, n, metrics={"loss": loss}) for n, loss in enumerate([3.0, 1.0, 1.0, 2.0])]
    rules = Retention(metric="loss")
    assert best_of(saved, rules) is saved[2]
    assert best_of(saved, Retention(metric="loss", mode="max")) is saved[0]
    assert best_of(saved, Retention()) is None
    marked = [saved_at(9, 9, is_best=True, metrics={"loss": 2.5}), saved_at(8, 8, is_best=True)]
    broken = saved_at(10, 10, is_best=True, metrics={"loss": math.nan})
    assert best_of([*saved, *marked, broken], rules) is marked[0]


@given(RULES)
def test_rules_survive_as_json(rules: Retention) -> None:
    """Rules read back equal from their JSON."""
    assert Retention.from_json(rules.as_json()) == rules


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_last": -1},
        {"keep_last": 1.5},
        {"keep_best": True},
        {"mode": "best"},
        {"metric": None},
        {"keep_younger_than_s": 5},
    ],
)
def test_invalid_rules_are_refused_also_of_a_newer_runwire(wrong: dict[str, object]) -> None:
    """Rules of a newer runwire too: to know half of them could delete what the others keep."""
    with pytest.raises(RetentionError):
        Retention.from_json(wrong)


def test_expired_manifests_are_deleted_and_blobs_kept() -> None:
    """What went is told, is no checkpoint any more, and its content waits for the sweep."""
    store = MemoryObjectStore()
    for n in range(1, 6):
        put_checkpoint(store, n, n * 10)
    gone = retire(store, Retention(keep_last=2, keep_every=20), now_ns=AT_NS)
    assert [m.checkpoint.step for m in gone if m.checkpoint] == [10, 30]
    catalog = Catalog(store)
    assert [view.step for view in catalog.checkpoints("p", "r")] == [20, 40, 50]
    assert catalog.resolve("checkpoint-r:step-20", "p").number == 1
    assert len(list(store.list(BLOBS))) == 5
    assert retire(store, Retention(keep_last=2, keep_every=20), now_ns=0) == []
    assert retire(store, Retention(), now_ns=AT_NS) == []


def test_superseded_saves_expire_once_there_is_a_rule() -> None:
    """It is never loaded: who saves each time at one step would fill the store."""
    store = MemoryObjectStore()
    for n in range(1, 5):
        put_checkpoint(store, n, 10)
    assert retire(store, Retention(), now_ns=AT_NS) == []
    gone = retire(store, Retention(keep_every=1), now_ns=AT_NS)
    assert [int(m.artifact, 16) for m in gone] == [1, 2, 3]
    (view,) = Catalog(store).checkpoints("p", "r")
    assert (int(view.first.artifact, 16), view.superseded) == (4, ())


def test_checkpoint_with_missing_parts_is_kept_for_an_hour() -> None:
    """A rank whose upload is slow finds the parts of the others, not a hole."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10, kind="sharded", world_size=2, rank=0)
    for n in (2, 3):
        put_checkpoint(store, n, 20, kind="sharded", world_size=2, rank=n - 2)
    rules = Retention(keep_last=1)
    assert retire(store, rules, now_ns=AT_NS + HOUR) == []
    gone = retire(store, rules, now_ns=AT_NS + HOUR + 9 * SECOND)
    assert [m.checkpoint.step for m in gone if m.checkpoint] == [10]


def test_sharded_checkpoint_expires_with_all_its_parts() -> None:
    """The parts of all ranks of an expired step are deleted together."""
    store = MemoryObjectStore()
    number = 0
    for step in (10, 20):
        for rank in range(3):
            number += 1
            put_checkpoint(store, number, step, kind="sharded", world_size=3, rank=rank)
    gone = retire(store, Retention(keep_last=1), now_ns=AT_NS)
    assert [m.rank for m in gone] == [0, 1, 2]
    (left,) = Catalog(store).checkpoints("p", "r")
    assert left.step == 20
    assert left.is_complete
