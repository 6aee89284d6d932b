"""Dead letters about the spool: the same loss is the same letter on both routes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runwire_consumers.core.source import Record
from runwire_consumers.spool.journal import IntentJournal
from runwire_consumers.spool.source import SpoolSource
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import META_FILE
from runwire_disk.spool.letters import letter_id, loss_of
from runwire_disk.spool.scan import Damage
from runwire_schemas.events import DeadLetter
from support.builders import Bench
from support.shipping import KAFKA, ShippingRig
from support.spools import metric_log, new_writer

COORDINATES: dict[str, Any] = {
    "stream": "metric",
    "partition": "aa/metric",
    "first": 3,
    "last": 9,
}


def damaged_folder(root: Path, damage: str) -> Path:
    """The folder of a finished writer that lost something, on the embedded route."""
    writer = new_writer(root)
    log = metric_log(writer)
    for step in range(50):
        log.log({"a": float(step), "b": 0.5}, step)
    writer.append_json("run", {"event": "finished", "status": "finished"})
    if damage == "no event":
        writer.append_json("param", {"unheard": "of"})
    writer.close()
    series, offset = {
        "point": ("metric", 1500),
        "header": ("metric", 20),
        "event": ("lifecycle", 300),
        "no event": ("log", 0),
    }[damage]
    for segment in writer.folder.glob(f"{series}-*.seg"):
        data = bytearray(segment.read_bytes())
        data[offset] ^= 4
        segment.write_bytes(bytes(data))
    return writer.folder


def embedded_letters(root: Path) -> list[DeadLetter]:
    bench = Bench()
    source = SpoolSource(root, IntentJournal(root / "journal"), clock=bench.clock)
    assert bench.start(source=source, polls=40).run() == 0
    return list(bench.letters.values())


def shipped_letters(root: Path, folder: Path) -> list[DeadLetter]:
    meta = json.loads((folder / META_FILE).read_text())
    meta |= {"route": "kafka", "destination": KAFKA.public()}
    (folder / META_FILE).write_text(json.dumps(meta))
    rig = ShippingRig(root)
    rig.settle()
    rig.end()
    return rig.events("deadletter")


@pytest.mark.parametrize("damage", ["point", "header", "event", "no event"])
def test_loss_has_one_letter_whichever_route_reports_it(tmp_path: Path, damage: str) -> None:
    """A folder read by the worker, then shipped after a reroute: equal ids, so it counts once."""
    folder = damaged_folder(tmp_path / "embedded", damage)
    copy = tmp_path / "shipped" / "spool" / folder.name
    shutil.copytree(folder, copy)
    here = embedded_letters(tmp_path / "embedded")
    there = shipped_letters(tmp_path / "shipped", copy)
    assert here
    assert [letter.id for letter in here] == [letter.id for letter in there]
    for one, other in zip(here, there, strict=True):
        facts = [(x.stream, x.partition, x.offset, x.last_offset) for x in (one, other)]
        assert facts[0] == facts[1]
        assert one.reason == other.reason
        assert (one.points, one.key, one.value) == (other.points, other.key, other.value)


def test_letter_id_is_that_of_earlier_versions() -> None:
    """Letters stored before an update are recognised after it."""
    assert letter_id(**COORDINATES, index=1) == "118fd93961aacf1c2334b576683bc3db"
    assert letter_id(**COORDINATES, index=0) == "1ce0fd8af1d89ee4bc76aa81c30c4b11"


def test_record_beside_its_loss_has_another_id() -> None:
    """A cut that the sink rejects and the damage in its range are two letters."""
    record = Record("metric", "aa/metric", 3, 9, 1, b"value")
    assert record.index == 0
    assert letter_id(**COORDINATES, index=0) != letter_id(**COORDINATES, index=1)


def cut_of(*, value: bytes = b"v", points_lost: int = 0, damage: tuple[Damage, ...] = ()) -> Cut:
    return Cut(
        writer="aa",
        kind="metric",
        series="metric",
        first_seq=3,
        last_seq=9,
        batch_seq=0,
        points=2,
        value=value,
        points_lost=points_lost,
        damage=damage,
    )


def test_whole_cut_has_no_loss_and_lost_points_have_a_reason() -> None:
    """Points that are missing without a damaged stretch are reported with their count."""
    assert loss_of(cut_of()) is None
    loss = loss_of(cut_of(points_lost=4))
    assert loss is not None
    assert (loss.points, loss.evidence) == (4, b"[]")
    assert loss.reason == "4 points before seq 9 are lost"


def test_damaged_bytes_are_kept_as_evidence() -> None:
    """A person sees where the stretch was and what was read there, in hex."""
    damages = tuple(Damage("metric", 1, offset, 8, 1, 3, b"\x00\xff") for offset in (256, 512))
    loss = loss_of(cut_of(value=b"", points_lost=2, damage=damages))
    assert loss is not None
    assert loss.reason == "; ".join(damage.reason for damage in damages)
    assert json.loads(loss.evidence) == [
        {"segment": 1, "offset": offset, "size": 8, "data": "00ff"} for offset in (256, 512)
    ]
