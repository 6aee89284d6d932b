"""Runs of equal metric records: the same cuts as record by record, whatever a segment holds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from runwire_disk.spool import scan
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import HEADER_BYTES
from runwire_disk.spool.metric_run import RUN_MAX, RUN_MIN
from runwire_disk.spool.reader import FolderReader
from support.effort import examples
from support.spools import metric_log, new_writer


def write_random(root: Path, chance: random.Random) -> Path:
    """A folder of random bursts: layouts, wide calls, calls refused in between, odd steps."""
    writer = new_writer(root)
    log = metric_log(writer, failures=[])
    layouts = [
        [f"metric/{chance.randrange(30)}/{number}" for number in range(chance.choice((1, 2, 9)))]
        for _ in range(chance.randrange(1, 5))
    ]
    step = chance.choice((0, -5, 2**40))
    for _ in range(chance.randrange(1, 12)):
        names = chance.choice(layouts)
        for _ in range(chance.choice((1, RUN_MIN - 1, RUN_MIN, 40, RUN_MAX + 5, 700))):
            step += chance.choice((1, 1, 1, 0, -3, 20_000)) if chance.random() < 0.1 else 1
            log.log({name: chance.random() for name in names}, step)
        if chance.random() < 0.3:
            log.log({f"wide/{number}": 1.0 for number in range(chance.randrange(1, 300))}, step)
        if chance.random() < 0.2:
            log.log({"text": "not a number", names[0]: float("nan")}, step)
    if chance.random() < 0.5:
        writer.close()
    else:
        writer.abandon()
    return writer.folder


def damage(folder: Path, chance: random.Random) -> None:
    for segment in folder.glob("metric-*.seg"):
        data = bytearray(segment.read_bytes())
        end = HEADER_BYTES + len(bytes(data[HEADER_BYTES:]).rstrip(b"\0"))
        for _ in range(chance.choice((0, 0, 1, 3))):
            at = chance.randrange(HEADER_BYTES, max(end, HEADER_BYTES + 1))
            data[at : at + 8] = chance.choice((bytes(8), data[at : at + 7] + b"\1"))
        segment.write_bytes(bytes(data))


def read(folder: Path, cut_bytes: int) -> list[Cut]:
    reader = FolderReader(folder, sync=False)
    reader.limit_cuts(cut_bytes)
    cuts: list[Cut] = []
    while fresh := reader.cut():
        cuts += fresh
    reader.close()
    return cuts


def replayed(folder: Path, cuts: list[Cut]) -> list[Cut]:
    """The cuts rebuilt from their ranges, each committed before the next."""
    reader = FolderReader(folder, sync=False)
    again: list[Cut] = []
    for cut in cuts:
        again += reader.replay(cut.series, cut.first_seq, cut.last_seq, batch_seq=cut.batch_seq)
        reader.advance(cut.series, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)
    reader.close()
    return again


@pytest.mark.parametrize("nth", range(examples(100)))
def test_cuts_are_those_of_single_records(
    tmp_path: Path, seed: int, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, with all losses and damages, for every size of a cut, read or rebuilt."""
    chance = random.Random(f"{seed}/{nth}")
    folder = write_random(tmp_path, chance)
    damage(folder, chance)
    cut_bytes = chance.choice((1024, 5000, 60_000, 512 * 1024))
    found = read(folder, cut_bytes)
    ranges = [cut for cut in found if cut.series == "metric" and cut.value]
    rebuilt = replayed(folder, ranges)
    with monkeypatch.context() as patch:
        patch.setattr(scan, "find_run", lambda *_: None)
        assert found == read(folder, cut_bytes)
        assert rebuilt == replayed(folder, ranges)


def test_long_run_is_read_as_runs(tmp_path: Path) -> None:
    """The comparison above is of two ways: equal records are not read one by one."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    for step in range(10 * RUN_MAX):
        log.log({"a": float(step), "b": 0.5}, step)
    writer.close()
    (path,) = writer.folder.glob("metric-*.seg")
    opened = scan.open_scan(path, series="metric", number=1, expected=0)
    kinds = [type(found).__name__ for found in opened.step_runs(1 << 20, sealed=True)]
    assert kinds == ["SpoolRecord", *["MetricRun"] * 10]
