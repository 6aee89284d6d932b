"""Kills, lost acknowledgements, outages and refusals in random order; nothing lost or changed."""

import random
from pathlib import Path

import pytest

from runwire_agent.ship.broker import UNREACHABLE, Failure
from runwire_disk.spool.reader import list_folders
from support.effort import IS_QUICK
from support.shipping import ShippingRig, distinct_batches, points_of

ROUNDS = 30
WRITERS = 2


@pytest.mark.parametrize("nth", range(1 if IS_QUICK else 4))
def test_every_point_arrives_under_one_number(tmp_path: Path, seed: int, nth: int) -> None:
    """Repeat a failure with RUNWIRE_TEST_SEED; `nth` makes the rest."""
    chance = random.Random(f"{seed}/{nth}")
    rig = ShippingRig(tmp_path)
    # Fixed: what was stored under a higher limit, unacknowledged, would be stored twice.
    rig.cluster.bytes_max = chance.choice((3000, 20_000, 1 << 20))
    logs = [rig.writer()[1] for _ in range(WRITERS)]
    expected = 0
    for _ in range(ROUNDS):
        for _ in range(chance.randrange(200)):
            log = chance.choice(logs)
            width = chance.choice((1, 1, 3, 30))
            log.log({f"m{n}": float(n) for n in range(width)})
            expected += width
        if chance.random() < 0.3:
            chance.choice(rig.writers).append_json("run", {"event": "updated"})
        happen(rig, chance)
        rig.run(chance.choice((0.1, 0.3, 1.0)))
    rig.cluster.away = None
    rig.cluster.missing.clear()
    rig.broker.acknowledges = True
    rig.settle()
    points = points_of(distinct_batches(rig.messages("metric")))
    assert len(points) == len(set(points)) == expected
    assert rig.messages("deadletter") == []
    for writer in rig.writers:
        writer.append_json("run", {"event": "finished", "status": "finished"})
        writer.close()
    rig.settle()
    assert list_folders(tmp_path) == []
    rig.end()


def happen(rig: ShippingRig, chance: random.Random) -> None:
    """One fault, or the end of one."""
    what = chance.randrange(6)
    if what == 0:
        rig.kill()
        if chance.random() < 0.3:
            tear(rig, chance)
        rig.start()
    elif what == 1:
        rig.broker.acknowledges = not rig.broker.acknowledges
    elif what == 2:
        rig.cluster.away = None if rig.cluster.away else Failure(UNREACHABLE, "away")
    elif what == 3:
        rig.cluster.missing ^= {chance.choice(("metric", "run"))}
    elif what == 4:
        rig.broker.reset()


def tear(rig: ShippingRig, chance: random.Random) -> None:
    """A line that was being written when everything was killed; nothing was sent under it."""
    for path in (rig.root / "spool" / ".cuts").glob("*.log"):
        with path.open("ab") as file:
            file.write(b'0a1b2c3d [["folder",123,4'[: chance.randrange(1, 25)])
