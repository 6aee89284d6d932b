"""Round trip of a spool: a reader delivers every accepted record once, in order, exactly."""

from __future__ import annotations

import math
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from runwire.metrics.store import LAYOUTS_MAX
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import SpoolBusy, SpoolError
from runwire_disk.spool.progress import lifecycle_end, progress
from runwire_disk.spool.reader import FolderReader, read_meta, writer_alive
from runwire_schemas import codec
from runwire_schemas.events import MetricBatch
from support.spools import metric_log, new_writer


def read_all(reader: FolderReader) -> list[Cut]:
    """Every cut until nothing is new, committed as a worker would."""
    cuts: list[Cut] = []
    while fresh := reader.cut():
        cuts += fresh
        for cut in fresh:
            reader.advance(cut.series, cut.last_seq + 1, batch_seq=reader.batch_seq)
    return cuts


def points(cuts: list[Cut]) -> list[tuple[str, int, int, float]]:
    """(name, step, call, value) of every point."""
    found = []
    for cut in cuts:
        if cut.kind != "metric" or not cut.value:
            continue
        batch = codec.decode(cut.value)
        assert isinstance(batch, MetricBatch)
        at = 0
        for call, step, n in zip(batch.call_seq, batch.call_step, batch.call_n, strict=True):
            for index, value in zip(
                batch.name_idx[at : at + n], batch.value[at : at + n], strict=True
            ):
                found.append((batch.names[index], step, call, value))
            at += n
    return found


def test_values_are_kept_exactly(tmp_path: Path) -> None:
    """NaN, infinities, negative zero, subnormals, ints and bools come back bit for bit."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    values = [0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1, True, 2**53, -(2**53)]
    for value in values:
        log.log({"v": value})
    found = points(read_all(FolderReader(writer.folder)))
    assert [struct.pack("<d", v) for *_, v in found] == [struct.pack("<d", v) for v in values]
    assert [step for _, step, _, _ in found] == list(range(len(values)))
    writer.close()


def test_calls_of_changing_shape_and_step_order(tmp_path: Path) -> None:
    """Repeated, backward and negative steps and changing key sets are all accepted."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    log.log({"a": 1.0, "b": 2.0}, 5)
    log.log({"b": 3.0}, 5)
    log.log({"a": 4.0}, 2)
    log.log({"a": 5.0}, -1)
    log.log({"nested": {"x": {"y": 6.0}}, "none": None})
    log.log({"c": 7.0}, commit=False)
    log.log({"d": 8.0})
    found = points(read_all(FolderReader(writer.folder)))
    assert [(n, s, v) for n, s, _, v in found] == [
        ("a", 5, 1.0),
        ("b", 5, 2.0),
        ("b", 5, 3.0),
        ("a", 2, 4.0),
        ("a", -1, 5.0),
        ("nested/x/y", 0, 6.0),
        ("c", 1, 7.0),
        ("d", 1, 8.0),
    ]
    assert writer.dropped == {"not_a_number": 1}
    writer.close()


def test_many_segments_and_a_reader_that_keeps_pace(tmp_path: Path) -> None:
    """Points survive segment changes; consumed segments are deleted; sums are exact."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    reader = FolderReader(writer.folder)
    names = [f"m{i}" for i in range(40)]
    delivered: list[Cut] = []
    for step in range(6000):
        log.log({name: float(step) for name in names}, step)
        if step % 700 == 0:
            delivered += read_all(reader)
            reader.save()
    delivered += read_all(reader)
    reader.save()
    found = points(delivered)
    assert len(found) == 6000 * 40 == progress(writer.folder).accepted
    assert len(set(found)) == len(found)
    assert sum(v for *_, v in found) == 40 * sum(range(6000))
    assert len(list(writer.folder.glob("metric-*.seg"))) == 1
    assert [cut.batch_seq for cut in delivered if cut.kind == "metric"] == list(
        range(len([cut for cut in delivered if cut.kind == "metric"]))
    )
    writer.close()


def test_batches_count_the_points_that_were_accepted_before_them(tmp_path: Path) -> None:
    """Across reads and restarts of the reader: the count is in the records themselves."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    sizes: list[int] = []
    counts: list[int] = []
    for keys in (1, 3, 2, 5):
        log.log({f"k{i}": float(i) for i in range(keys)})
        sizes.append(keys)
        reader = FolderReader(writer.folder)
        for cut in read_all(reader):
            batch = codec.decode(cut.value)
            assert isinstance(batch, MetricBatch)
            counts.append(batch.points_before)
        reader.save()
        reader.close()
    assert counts == [sum(sizes[:index]) for index in range(4)]
    writer.close()


def test_ten_thousand_names_are_kept_beyond_the_layout_table(tmp_path: Path) -> None:
    """Distinct names beyond the layout table travel inside the records; none is lost."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    for i in range(LAYOUTS_MAX + 500):
        log.log({f"name/{i}": float(i)})
    log.log({f"wide/{i}": float(i) for i in range(10_000)})
    found = points(read_all(FolderReader(writer.folder)))
    assert len({name for name, *_ in found}) == LAYOUTS_MAX + 500 + 10_000
    assert log.last()["name/0"] == 0.0
    assert log.last()["wide/9999"] == 9999.0
    writer.close()


def test_threads_share_one_writer(tmp_path: Path) -> None:
    """Four threads, changing shapes: every call is there once."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)

    def work(worker: int) -> None:
        for step in range(2000):
            log.log({f"t{worker}": float(step), **({"x": 1.0} if step % 3 == 0 else {})}, step)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = points(read_all(FolderReader(writer.folder)))
    assert len(found) == len(set(found)) == 4 * (2000 + 667)
    assert len({call for _, _, call, _ in found}) == 8000
    writer.close()


def test_replay_is_byte_identical_whatever_the_read_sizes(tmp_path: Path) -> None:
    """A cut rebuilt from its journalled range equals the first one, also in a new process."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    reader = FolderReader(writer.folder)
    cuts: list[Cut] = []
    for step in range(3000):
        log.log({"a": 1.0 * step, "b": 2.0}, step)
        if step in (5, 700, 701, 2500):
            cuts += reader.cut()
            writer.append_json("run", {"event": "updated", "status": "running"})
    while fresh := reader.cut():
        cuts += fresh
    reader.close()
    again = FolderReader(writer.folder)
    for cut in cuts:
        rebuilt = again.replay(cut.series, cut.first_seq, cut.last_seq, batch_seq=cut.batch_seq)
        assert rebuilt == [cut]
        again.advance(cut.series, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)
    again.save()
    again.close()
    writer.close()
    last = FolderReader(writer.folder)
    assert read_all(last) == []
    assert last.drained
    last.remove()
    assert not writer.folder.exists()


def test_one_reader_and_one_writer(tmp_path: Path) -> None:
    """A second reader is told to wait, a second writer is refused, and locks tell who lives."""
    writer = new_writer(tmp_path)
    reader = FolderReader(writer.folder)
    with pytest.raises(SpoolBusy):
        FolderReader(writer.folder)
    with pytest.raises(SpoolError, match="two processes claim writer"):
        new_writer(tmp_path, writer=writer.meta.writer)
    assert writer_alive(writer.folder)
    writer.close()
    assert not writer_alive(writer.folder)
    reader.close()
    assert read_meta(writer.folder) == writer.meta


def test_progress_needs_no_help_from_the_writer(tmp_path: Path) -> None:
    """Step, count, phase and drops are readable from the live segment's header."""
    writer = new_writer(tmp_path)
    assert progress(writer.folder).last_step is None
    log = metric_log(writer, failures=[])
    writer.set_phase("eval")
    log.log({"a": 1.0, "b": 1.0}, 41)
    log.log({"bad": object()}, 41)
    seen = progress(writer.folder)
    assert (seen.last_step, seen.accepted, seen.phase) == (41, 2, "eval")
    assert seen.dropped == {"not_a_number": 1}
    assert lifecycle_end(writer.folder) == (False, 0)
    writer.append_json("run", {"event": "finished", "status": "finished"})
    assert lifecycle_end(writer.folder) == (True, 1)
    writer.close()


def test_names_and_texts_with_lone_surrogates(tmp_path: Path) -> None:
    """Text that is no UTF-8 becomes readable instead of stopping the reader."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    log.log({"bad\ud800name": 1.0, "text": "x\udfff"})
    log.log({"bad\ud800name": 2.0})
    cuts = read_all(FolderReader(writer.folder))
    assert [(name, value) for name, _, _, value in points(cuts)] == [
        ("bad?name", 1.0),
        ("bad?name", 2.0),
    ]
    assert sorted(cut.kind for cut in cuts) == ["log", "metric"]
    assert not any(cut.damage for cut in cuts)
    writer.close()


class Tensor:
    """A scalar that counts how often somebody adds it to something."""

    added = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value

    def __radd__(self, _other: Any) -> Tensor:
        Tensor.added += 1
        return self


def test_values_of_changing_type_take_the_way_they_need(tmp_path: Path) -> None:
    """Floats, then text, tensors, huge ints, NaN under one name: all kept, tensors not added."""
    writer = new_writer(tmp_path)
    failures: list[tuple[str, str]] = []
    log = metric_log(writer, failures)
    Tensor.added = 0
    log.log({"v": 1.0})
    log.log({"v": "words"})
    for value in (2.0, 3.0, 4.0):
        log.log({"v": Tensor(value)})
    log.log({"v": 2**53 + 1})
    log.log({"v": math.nan})
    log.log({"v": 5})
    assert Tensor.added <= 1
    assert [kind for kind, _ in failures] == ["log: rounded"]
    assert log.last() == {"v": 5}
    found = points(read_all(FolderReader(writer.folder)))
    values = [1.0, 2.0, 3.0, 4.0, float(2**53 + 1), math.nan, 5.0]
    assert [struct.pack("<d", v) for *_, v in found] == [struct.pack("<d", v) for v in values]
    assert writer.dropped == {}
    writer.close()
