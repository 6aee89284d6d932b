"""Checkpoints of a step that was saved again: the earlier save expires only after a good one."""

from __future__ import annotations

import math

from runwire_store.catalog import Catalog
from runwire_store.checkpoints import group_checkpoints, manifests_without
from runwire_store.manifest import Manifest
from runwire_store.memory import MemoryObjectStore
from runwire_store.retention import Retention, expired, find_checkpoint
from support.stored import AT_NS, SECOND, checkpoint, put_checkpoint, retire

NAN = {"loss": math.nan}
LAST = Retention(keep_last=3)
LATE = AT_NS + 10**6 * SECOND


def good(loss: float) -> dict[str, float]:
    return {"loss": loss}


def numbers(manifests: list[Manifest]) -> list[int]:
    return sorted(int(manifest.artifact, 16) for manifest in manifests)


def test_a_nan_does_not_take_the_place_of_the_only_good_one() -> None:
    """The same step with a metric that is NaN by now: both stay, and the good one is the best."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10, metrics=good(0.5), is_best=True)
    put_checkpoint(store, 2, 10, metrics=NAN)
    assert retire(store, LAST, now_ns=LATE) == []
    known = Catalog(store).checkpoints("p", "r")
    assert [(view.step, view.is_good) for view in known] == [(10, True), (10, False)]
    assert numbers(list(find_checkpoint(known, "best").manifests.values())) == [1]
    for which in ("latest", 10):
        assert numbers(list(find_checkpoint(known, which).manifests.values())) == [2]


def test_superseded_good_save_expires_by_the_rules_once_another_is_good() -> None:
    """With a newer good checkpoint the rules decide about the older good save alone."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10, metrics=good(0.5))
    put_checkpoint(store, 2, 10, metrics=NAN)
    put_checkpoint(store, 3, 11, metrics=good(0.9))
    assert retire(store, Retention(keep_best=1, metric="loss"), now_ns=LATE)
    assert {v.first.checkpoint.metrics["loss"] for v in Catalog(store).checkpoints("p", "r")} == {
        0.5,
        0.9,
    }
    assert numbers(retire(store, Retention(keep_last=1), now_ns=LATE)) == [1]


def test_only_the_last_good_save_of_a_step_is_kept_beside_the_newest() -> None:
    """Saved again and again, a step fills no disk, whatever its metrics are."""
    saved = [checkpoint(n, 0, metrics=good(n) if n % 2 else NAN) for n in range(1, 9)]
    known = group_checkpoints(saved)
    assert [numbers(list(view.manifests.values())) for view in known] == [[7], [8]]
    assert numbers(manifests_without(known, expired(known, LAST))) == [1, 2, 3, 4, 5, 6]
    known = group_checkpoints([*saved, checkpoint(9, 0, metrics=good(9))])
    assert numbers(manifests_without(known, expired(known, LAST))) == list(range(1, 9))
    never = group_checkpoints([checkpoint(n, 0, metrics=NAN) for n in range(1, 4)])
    assert numbers(manifests_without(never, expired(never, LAST))) == [1, 2]


def parts(*saved: tuple[int, float]) -> list[Manifest]:
    """Parts of step 10 by rank and loss, in the order of time."""
    facts = {"kind": "sharded", "world_size": 2}
    return [
        checkpoint(n, 10, rank=rank, metrics=good(loss), **facts)
        for n, (rank, loss) in enumerate(saved, 1)
    ]


def test_part_shared_by_two_checkpoints_is_kept_until_both_expire() -> None:
    """A part that the good checkpoint and the newest one share goes with neither alone."""
    saved = parts((0, 0.5), (1, 0.5), (0, math.nan), (1, math.nan))
    half = group_checkpoints(saved[:3])
    assert [numbers(list(view.manifests.values())) for view in half] == [[1, 2], [2, 3]]
    assert manifests_without(half, half[:1]) == saved[:1]
    whole = group_checkpoints(saved)
    assert [numbers(list(view.manifests.values())) for view in whole] == [[1, 2], [3, 4]]
    assert manifests_without(whole, expired(whole, LAST)) == []


def test_superseded_part_is_kept_while_its_missing_ranks_may_upload() -> None:
    """Rank 1's upload is slow: the part of rank 0 that it belongs to is still there."""
    saved = parts((0, 0.5), (1, 0.5), (0, math.nan), (1, math.nan))
    without = group_checkpoints([saved[0], saved[2]])
    assert manifests_without(without, expired(without, LAST)) == []
