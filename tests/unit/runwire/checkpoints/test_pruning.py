"""Retention on this disk: the last good save and the parts of other ranks stay."""

from __future__ import annotations

import math
import random
from pathlib import Path

from runwire.checkpoints.local import LocalCheckpoints, LocalPart
from runwire_store.retention import Retention
from support.stored import checkpoint

NAN = math.nan


def save(local: LocalCheckpoints, number: int, step: int, **facts: object) -> LocalPart:
    manifest = checkpoint(number, step, **facts)
    with local.writing(manifest.artifact) as hidden:
        local.prepare(hidden, manifest)
        return local.publish(hidden, manifest)


def steps(local: LocalCheckpoints, rank: int = 0) -> list[int]:
    parts = (part.manifest for part in local.parts())
    return [m.checkpoint.step for m in parts if m.rank == rank and m.checkpoint]


def test_prune_keeps_everything_without_rules(tmp_path: Path) -> None:
    """Empty rules delete nothing."""
    local = LocalCheckpoints(tmp_path, "p", "r")
    for step in range(5):
        assert local.prune(save(local, step, step), Retention()) == []
    assert steps(local) == [0, 1, 2, 3, 4]


def test_prune_keeps_last_best_and_every_nth(tmp_path: Path) -> None:
    """The three rules together keep the union of their steps."""
    local = LocalCheckpoints(tmp_path, "p", "r")
    rules = Retention(keep_last=2, keep_best=1, metric="loss", keep_every=4)
    for step, loss in enumerate([9, 8, 1, 7, 6, 5, 4, NAN]):
        local.prune(save(local, step, step, metrics={"loss": float(loss)}), rules)
    assert steps(local) == [0, 2, 4, 6, 7]


def test_prune_keeps_the_last_good_step_under_any_rules(tmp_path: Path, seed: int) -> None:
    """The newest step with a finite metric is never deleted."""
    chance, local = random.Random(seed), LocalCheckpoints(tmp_path, "p", "r")
    good: list[int] = []
    for step in range(60):
        loss = NAN if chance.random() < 0.8 else chance.random()
        rules = Retention(
            keep_last=chance.randrange(3),
            keep_best=chance.randrange(2),
            metric="loss",
            keep_every=chance.choice([0, 7]),
        )
        local.prune(save(local, step, step, metrics={"loss": loss}), rules)
        good += [step] if math.isfinite(loss) else []
        assert not good or good[-1] in steps(local)


def test_prune_deletes_the_parts_of_all_ranks_together(tmp_path: Path) -> None:
    """On a shared disk a step is deleted once a newer one is complete, not before."""
    local, number, rules = LocalCheckpoints(tmp_path, "p", "r"), 0, Retention(keep_last=1)
    for step in (1, 2, 3):
        for rank in (0, 1):
            number += 1
            part = save(local, number, step, rank=rank, kind="sharded", world_size=2)
            local.prune(part, rules)
            if (step, rank) == (3, 0):
                assert steps(local, 1) == [2]
    assert steps(local, 0) == steps(local, 1) == [3]


def test_prune_keeps_two_steps_when_only_one_rank_is_visible(tmp_path: Path) -> None:
    """The other ranks are at most one save behind."""
    local, rules = LocalCheckpoints(tmp_path, "p", "r"), Retention(keep_last=1)
    for step in range(1, 6):
        part = save(local, step, step, rank=0, kind="sharded", world_size=2)
        local.prune(part, rules)
    assert steps(local) == [4, 5]


def test_prune_deletes_the_earlier_save_of_a_step(tmp_path: Path) -> None:
    """Saving always at step 0 does not fill the disk; without rules nothing is deleted."""
    local = LocalCheckpoints(tmp_path, "p", "r")
    save(local, 1, 0)
    assert local.prune(save(local, 2, 0), Retention()) == []
    for number in range(3, 8):
        newest = save(local, number, 0)
        local.prune(newest, Retention(keep_every=1))
        assert [part.manifest.artifact for part in local.parts()] == [newest.manifest.artifact]


def test_prune_keeps_a_good_save_replaced_by_nan(tmp_path: Path) -> None:
    """It is the only good one; the rules apply to it once another is good."""
    local, rules = LocalCheckpoints(tmp_path, "p", "r"), Retention(keep_last=3)
    first = save(local, 1, 10, metrics={"loss": 0.5})
    assert local.prune(save(local, 2, 10, metrics={"loss": NAN}), rules) == []
    for number in range(3, 7):
        local.prune(save(local, number, 8 + number, metrics={"loss": NAN}), rules)
    assert steps(local) == [10, 12, 13, 14]
    assert local.parts()[0].manifest.artifact == first.manifest.artifact
    local.prune(save(local, 7, 15, metrics={"loss": 0.6}), rules)
    assert steps(local) == [13, 14, 15]


def test_prune_keeps_the_last_good_save_when_steps_are_repeated(tmp_path: Path, seed: int) -> None:
    """It stays, whatever was saved after it and whatever the rules, until another is good."""
    chance, local = random.Random(seed), LocalCheckpoints(tmp_path, "p", "r")
    good, step = "", 0
    for number in range(80):
        step += chance.randrange(2)
        loss = NAN if chance.random() < 0.7 else chance.random()
        rules = Retention(
            keep_last=chance.randrange(3),
            keep_best=chance.randrange(2),
            metric="loss",
            keep_every=chance.choice([0, 7]),
        )
        part = save(local, number, step, metrics={"loss": loss})
        local.prune(part, rules)
        good = part.manifest.artifact if math.isfinite(loss) else good
        there = {part.manifest.artifact for part in local.parts()}
        assert there >= {part.manifest.artifact} | ({good} if good else set())
