"""Processes killed at random moments: every acknowledged point is stored exactly once."""

from __future__ import annotations

import importlib.util
import os
import random
import time
from pathlib import Path

import pytest

from faults import results
from faults.campaign import Campaign, victims
from faults.verdict import Verdict, assert_exactly_once, judge
from support.body_limit import BodyLimit
from support.faults import Stack
from support.harness_worker import CUT_POINT

pytestmark = pytest.mark.engine

BODY_BYTES = 200_000
SEED_VARIABLE = "RUNWIRE_FAULTS_SEED"
LONG = os.environ.get("RUNWIRE_FAULTS") == "long"
LONG_KILLS = int(os.environ.get("RUNWIRE_FAULTS_KILLS", "110"))


@pytest.fixture(autouse=True)
def _engine_is_there() -> None:
    """The fuzz kills its engine, so it needs one of its own."""
    if importlib.util.find_spec("chdb") is None:
        sentence = "chdb-core is not installed (pip install 'runwire[embedded]')"
        if os.environ.get("RUNWIRE_TEST_REQUIRE_SERVERS") == "1":
            pytest.fail(f"RUNWIRE_TEST_REQUIRE_SERVERS=1 and {sentence}")
        pytest.skip(sentence)


@pytest.fixture
def fuzz_seed(seed: int) -> int:
    """The seed of this fuzz, printed so that it can be run again."""
    chosen = int(os.environ.get(SEED_VARIABLE, seed))
    print(f"repeat with {SEED_VARIABLE}={chosen}")
    return chosen


def fuzz(
    root: Path,
    plan: list[str],
    rng: random.Random,
    *,
    unsafe: bool = False,
    **how: object,
) -> tuple[Verdict, Campaign]:
    """Run a campaign and judge what is stored in the end."""
    begin_s = time.monotonic()
    with Stack(root, unsafe=unsafe) as stack:
        campaign = Campaign(stack, rng, **how)  # type: ignore[arg-type]
        campaign.run(plan)
        verdict = judge(stack.url, stack.acks)
        verdict.faults[:0] = stack.complaints()
    print(f"{dict(campaign.kills)} in {time.monotonic() - begin_s:.0f} s: {verdict}")
    return verdict, campaign


SHORT = {
    "single": ["trainer", "after-intent", "engine", "worker", "between-tables"],
    "threads": ["after-insert", "trainer", "before-intent", "engine"],
    "forks": ["trainer", "after-commit", "trainer", "worker"],
}


@pytest.mark.parametrize("mode", SHORT)
def test_every_acknowledged_point_is_stored_once(mode: str, tmp_path: Path, fuzz_seed: int) -> None:
    """Trainer, worker and engine die; no point is lost and none is stored twice."""
    rng = random.Random(f"{fuzz_seed} {mode}")
    verdict, campaign = fuzz(tmp_path, SHORT[mode], rng, modes=(mode,))
    assert campaign.kills.total() == len(SHORT[mode])
    assert_exactly_once(verdict)


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="RUNWIRE_FAULTS=long runs it (make faults)")
def test_kills_while_batches_are_written_in_pieces_store_points_once(
    tmp_path: Path, fuzz_seed: int
) -> None:
    """A proxy refuses large bodies; the worker dies between cuts and pieces, the limit rises."""
    rng = random.Random(f"{fuzz_seed} pieces")
    with Stack(tmp_path) as stack, BodyLimit(lambda: stack.url, BODY_BYTES) as proxy:
        stack.stop_worker()
        stack.proxy_url = proxy.url
        stack.start_worker()
        campaign = Campaign(stack, rng, modes=("single",))
        for victim in (CUT_POINT, "between-tables", CUT_POINT, "after-insert", "worker"):
            campaign.run_one(victim)
            proxy.limit = int(proxy.limit * rng.choice((1, 1.2)))
        proxy.limit = 1 << 40  # the batch in flight keeps its pieces, the backlog is written whole
        campaign.finish()
        verdict = judge(stack.url, stack.acks)
        verdict.faults[:0] = stack.complaints()
    print(f"{dict(campaign.kills)}, {proxy.refused} bodies refused: {verdict}")
    assert proxy.refused > 0
    assert_exactly_once(verdict)


def test_control_without_the_protocol_doubles_rows(tmp_path: Path, fuzz_seed: int) -> None:
    """The control: the same harness sees duplicates once intents and tokens are switched off."""
    rng = random.Random(f"{fuzz_seed} control")
    plan = ["after-insert", "worker", "after-commit"]
    verdict, _ = fuzz(tmp_path, plan, rng, unsafe=True, modes=("single",))
    assert verdict.inserted_twice > 0
    # The natural key is the second net: readers see each point once all the same.
    assert (verdict.lost, verdict.duplicates) == (0, 0)


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="RUNWIRE_FAULTS=long runs it (make faults)")
def test_a_hundred_kills_lose_and_double_nothing(tmp_path: Path, fuzz_seed: int) -> None:
    """A long campaign over all modes and victims, and its control."""
    rng = random.Random(f"{fuzz_seed} long")
    verdict, campaign = fuzz(tmp_path / "long", victims(rng, LONG_KILLS), rng)
    plan = [*victims(rng, 12), "after-insert", "worker"]
    control, harm = fuzz(tmp_path / "control", plan, rng, unsafe=True)
    assert_exactly_once(verdict)
    assert control.inserted_twice > 0
    results.write((verdict, campaign.kills), (control, harm.kills), seed=fuzz_seed)
