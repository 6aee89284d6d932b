"""Torn, zeroed, flipped and truncated segments: found, counted, stepped over."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import HEADER_BYTES, LAST_WORD
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import FolderReader
from runwire_disk.spool.writer import SpoolWriter
from runwire_schemas import codec
from runwire_schemas.events import MetricBatch
from support.spools import metric_log, new_writer

CALLS = 400


def written(root: Path) -> tuple[Path, int]:
    """A closed folder with CALLS calls of two points; returns its metric segment and data size."""
    writer = new_writer(root)
    log = metric_log(writer)
    for step in range(CALLS):
        log.log({"a": float(step), "b": -float(step)}, step)
    end = writer.series["metric"].position().offset
    writer.close()
    return next(writer.folder.glob("metric-*.seg")), end


def read(folder: Path) -> list[Cut]:
    reader = FolderReader(folder)
    cuts: list[Cut] = []
    while fresh := reader.cut():
        cuts += fresh
    reader.close()
    return cuts


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_loses_at_most_its_record_and_is_reported(tmp_path: Path, seed: int) -> None:
    """Everything after the flip is delivered; stored + lost = accepted."""
    segment, end = written(tmp_path)
    rng = random.Random(seed)
    offset = rng.randrange(HEADER_BYTES, end)
    byte = segment.read_bytes()[offset]
    overwrite(segment, offset, bytes([byte ^ 1 << rng.randrange(8)]))
    cuts = read(segment.parent)
    stored = sum(cut.points for cut in cuts)
    lost = sum(cut.points_lost for cut in cuts)
    damages = [d for cut in cuts for d in cut.damage]
    if stored == 2 * CALLS:
        return  # the bit lay in a record's padding
    assert damages
    if stored:  # a flip in the last record leaves no later count to measure the loss against
        assert stored + lost in (2 * CALLS, 2 * CALLS - 2)
    assert all("damaged spool" in damage.reason for damage in damages)


@pytest.mark.parametrize("seed", range(20))
def test_zeroed_stretch_in_the_middle_is_counted_as_damage(tmp_path: Path, seed: int) -> None:
    """A zeroed page in the middle is damage, not the end of the data."""
    segment, end = written(tmp_path)
    rng = random.Random(seed)
    start = rng.randrange(HEADER_BYTES + 200, end - 3000)
    overwrite(segment, start, bytes(rng.randrange(64, 2000)))
    cuts = read(segment.parent)
    stored, lost = sum(c.points for c in cuts), sum(c.points_lost for c in cuts)
    assert stored + lost == 2 * CALLS
    assert lost > 0
    assert any(cut.damage for cut in cuts)


@pytest.mark.parametrize("keep", [0, 7, HEADER_BYTES - 1, HEADER_BYTES, 1000, 5001])
def test_truncated_segment_gives_its_whole_records(tmp_path: Path, keep: int) -> None:
    """A cut file gives its whole records and never an exception."""
    segment, _ = written(tmp_path)
    os.truncate(segment, keep)
    stored = sum(cut.points for cut in read(segment.parent))
    assert 0 <= stored < 2 * CALLS


def test_garbage_after_the_last_record_is_a_torn_tail(tmp_path: Path) -> None:
    """A body without its commit word is what SIGKILL leaves: skipped without a word."""
    segment, end = written(tmp_path)
    overwrite(segment, end + 8, b"\x7f" * 100)
    cuts = read(segment.parent)
    assert sum(cut.points for cut in cuts) == 2 * CALLS
    assert not any(cut.damage for cut in cuts)


def test_damaged_header_still_gives_the_records(tmp_path: Path) -> None:
    """Records carry their own CRC: a lost header costs nothing but a report."""
    segment, _ = written(tmp_path)
    overwrite(segment, 0, bytes(64))
    cuts = read(segment.parent)
    assert sum(cut.points for cut in cuts) == 2 * CALLS
    assert any(cut.damage for cut in cuts)


def test_a_live_segment_is_not_called_damaged_while_a_record_may_be_on_its_way(
    tmp_path: Path,
) -> None:
    """A bad last record counts as damage only once a later one is committed."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    for step in range(10):
        log.log({"a": float(step)}, step)
    reader = FolderReader(writer.folder)
    metric = writer.series["metric"]
    segment = metric.segment
    assert segment is not None
    start = metric.position().offset
    log.log({"a": 10.0}, 10)
    segment.bytes[start + 30] ^= 1
    first = [cut for cut in reader.cut() if cut.kind == "metric"]
    assert sum(cut.points for cut in first) == 10
    assert reader.cut() == []
    log.log({"a": 11.0}, 11)
    second = reader.cut()
    assert sum(cut.points for cut in second) == 1
    assert sum(cut.points_lost for cut in second) == 1
    batch = codec.decode(second[0].value)
    assert isinstance(batch, MetricBatch)
    assert batch.points_before == 11
    assert [d.lost_records for cut in second for d in cut.damage] == [1]
    reader.close()
    writer.close()


@pytest.mark.parametrize("seed", range(60))
def test_random_bytes_never_crash_the_reader(tmp_path: Path, seed: int) -> None:
    """Any content: no exception, no endless loop, no huge allocation."""
    segment, _ = written(tmp_path)
    rng = random.Random(seed)
    for _ in range(rng.randrange(1, 6)):
        size = rng.randrange(1, 5000)
        overwrite(segment, rng.randrange(0, 40_000), rng.randbytes(size))
    stored = sum(cut.points for cut in read(segment.parent))
    assert 0 <= stored <= 2 * CALLS


def write_segments(root: Path, *, segments: int) -> SpoolWriter:
    """A writer whose metric series fills this many segments."""
    writer = new_writer(root)
    log = metric_log(writer)
    step = 0
    while len(list(writer.folder.glob("metric-*.seg"))) < segments:
        log.log({f"m{n}": float(step) for n in range(50)}, step)
        step += 1
    log.log({"last": 1.0}, step)
    return writer


def flip_last_record(segment: Path) -> None:
    """Flip a bit in the last record of a segment."""
    last = int.from_bytes(segment.read_bytes()[LAST_WORD * 8 : LAST_WORD * 8 + 8], "little")
    overwrite(segment, last + 20, bytes([segment.read_bytes()[last + 20] ^ 1]))


def deliver_all(folder: Path) -> list[Cut]:
    """Read, commit and save until the reader is drained, as a worker does; no cut comes twice."""
    reader = FolderReader(folder)
    cuts: list[Cut] = []
    for _ in range(100):
        fresh = reader.cut()
        cuts += fresh
        for cut in fresh:
            reader.advance(cut.series, cut.last_seq + 1, batch_seq=reader.batch_seq)
        reader.save()
        if not fresh and reader.drained:
            break
    else:
        raise AssertionError("never drained")
    reader.close()
    return cuts


@pytest.mark.parametrize("series", ["metric", "lifecycle"])
def test_damaged_last_record_is_reported_once_and_the_folder_drains(
    tmp_path: Path, series: str
) -> None:
    """Nothing follows it: one cut reports it, and neither this reader nor the next repeats it."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    for step in range(3):
        log.log({"a": float(step)}, step)
    for number in range(3):
        writer.append_json("param", {"key": str(number), "value": "1"})
    writer.close()
    flip_last_record(writer.folder / f"{series}-00000001.seg")
    cuts = deliver_all(writer.folder)
    damages = [damage for cut in cuts for damage in cut.damage]
    assert [damage.series for damage in damages] == [series]
    assert [cut for cut in deliver_all(writer.folder) if cut.damage] == []


@pytest.mark.parametrize("restarts", [True, False])
def test_damage_at_a_segment_s_end_travels_with_the_next_segment(
    tmp_path: Path, restarts: bool
) -> None:
    """The damaged end is one report, its points are counted, and what follows is delivered."""
    writer = write_segments(tmp_path, segments=3)
    flip_last_record(writer.folder / "metric-00000001.seg")
    reader = FolderReader(writer.folder)
    cuts: list[Cut] = []
    while fresh := reader.cut():
        cuts += fresh
        for cut in fresh:
            reader.advance(cut.series, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)
        if restarts:
            reader.save()
            reader.close()
            reader = FolderReader(writer.folder)
    reader.close()
    writer.close()
    assert sum(cut.points_lost for cut in cuts) == 50
    assert sum(cut.points + cut.points_lost for cut in cuts) == progress(writer.folder).accepted
    assert len({damage for cut in cuts for damage in cut.damage if damage.size}) == 1
    assert sum(damage.size > 0 for cut in cuts for damage in cut.damage) == 1


def test_damaged_cut_is_rebuilt_with_its_damage(tmp_path: Path) -> None:
    """A batch in doubt is the same again, its dead letter included, from a fresh reader."""
    writer = write_segments(tmp_path, segments=3)
    writer.close()
    for number in (1, 3):
        segment = writer.folder / f"metric-{number:08d}.seg"
        flip_last_record(segment)
    cuts = read(writer.folder)
    assert sum(bool(cut.damage) for cut in cuts) == 2
    for cut in cuts:
        reader = FolderReader(writer.folder)
        for before in cuts[: cuts.index(cut)]:
            reader.replay(before.series, before.first_seq, before.last_seq, batch_seq=0)
        again = reader.replay(cut.series, cut.first_seq, cut.last_seq, batch_seq=cut.batch_seq)
        assert again == [cut]
        reader.close()


def test_segment_without_a_descriptor_for_it_is_read_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first segment is consumed and gone, which does not mean that there is nothing to read."""
    writer = write_segments(tmp_path, segments=2)
    reader = FolderReader(writer.folder)
    while fresh := reader.cut():
        for cut in fresh:
            reader.advance(cut.series, cut.last_seq + 1, batch_seq=reader.batch_seq)
    reader.save()
    reader.close()
    assert len(list(writer.folder.glob("metric-*.seg"))) == 1
    metric_log(writer).log({"unread": 1.0})
    writer.close()
    opens = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".seg"):
            raise OSError(errno.EMFILE, "too many open files")
        return opens(path, *args, **kwargs)

    reader = FolderReader(writer.folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert reader.cut() == []
        assert reader.is_short
        assert not reader.drained
    assert [cut.points for cut in reader.cut()] == [1]
    reader.close()
