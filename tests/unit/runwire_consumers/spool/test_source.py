"""Spool source: busy and deleted folders, damage, half-finished commits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runwire_consumers.core.clock import Deadline, MemoryClock
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.pieces import WHOLE
from runwire_consumers.core.source import Record, Span
from runwire_consumers.spool.journal import IntentJournal
from runwire_consumers.spool.source import GATHER_S_MAX, POINTS_MAX, SpoolSource
from runwire_disk.spool.folder_set import AGENT_GRACE_S
from runwire_disk.spool.look_pace import MUCH_BYTES
from runwire_disk.spool.reader import FolderReader
from support.builders import Bench
from support.spools import metric_log, new_writer


def open_source(root: Path, clock: MemoryClock | None = None) -> SpoolSource:
    return SpoolSource(root, IntentJournal(root / "journal"), clock=clock or MemoryClock())


def drain(source: SpoolSource) -> list[Record]:
    """Everything until several polls find nothing."""
    found: list[Record] = []
    for _ in range(5):
        while polled := source.poll(0.3):
            found += polled
    return found


def spans_of(records: list[Record]) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    for item in records:
        first = spans[item.partition].first if item.partition in spans else item.offset
        spans[item.partition] = Span(first, item.last_offset)
    return spans


def finish(source: SpoolSource, records: list[Record]) -> None:
    source.intend([spans_of(records)])
    source.commit(spans_of(records))


@pytest.mark.parametrize("finished", [True, False])
def test_a_drained_folder_is_deleted(tmp_path: Path, *, finished: bool) -> None:
    """Once its writer is gone and all is committed; the agent has time to see one that died."""
    writer = new_writer(tmp_path)
    metric_log(writer).log({"a": 1.0})
    clock = MemoryClock()
    source = open_source(tmp_path, clock)
    records = drain(source)
    if finished:
        writer.append_json("run", {"event": "finished", "status": "finished"})
    writer.close()
    records += drain(source)
    assert writer.folder.exists()
    finish(source, records)
    drain(source)
    assert writer.folder.exists() is not finished
    clock.advance(AGENT_GRACE_S)
    drain(source)
    assert list((tmp_path / "spool").iterdir()) == []
    source.close(Deadline(1))


def test_other_routes_and_busy_folders_are_left_alone(tmp_path: Path) -> None:
    """A Kafka folder is never read; one that another process reads is read once it is free."""
    foreign = new_writer(tmp_path, route="kafka")
    busy = new_writer(tmp_path)
    for writer in (foreign, busy):
        metric_log(writer).log({"a": 1.0})
    other = FolderReader(busy.folder)
    source = open_source(tmp_path)
    assert drain(source) == []
    FolderReader(foreign.folder).close()
    other.close()
    (record,) = drain(source)
    assert record.partition == f"{busy.meta.writer}/metric"
    source.close(Deadline(1))
    foreign.close()
    busy.close()


def test_damage_becomes_a_dead_letter_beside_what_could_be_read(tmp_path: Path) -> None:
    """A flipped bit costs its own record; the rest is stored, the loss is counted and kept."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    for step in range(50):
        log.log({"a": float(step), "b": 0.5}, step)
    writer.close()
    segment = next(writer.folder.glob("metric-*.seg"))
    data = bytearray(segment.read_bytes())
    data[1500] ^= 4
    segment.write_bytes(bytes(data))
    bench = Bench()
    source = open_source(tmp_path, bench.clock)
    assert bench.start(source=source, polls=40).run() == 0
    (letter,) = bench.letters.values()
    assert "damaged spool" in letter.reason
    assert bench.store.points + letter.points == 100
    assert 0 < letter.points <= 4


def test_a_commit_that_had_begun_is_finished_without_an_insert(tmp_path: Path) -> None:
    """Killed between two cursors: one moved on, so the insert had succeeded."""
    writers = [new_writer(tmp_path) for _ in range(2)]
    for writer in writers:
        metric_log(writer).log({"a": 1.0})
    source = open_source(tmp_path)
    records = drain(source)
    source.intend([spans_of(records)])
    source.close(Deadline(1))
    reader = FolderReader(writers[0].folder)
    reader.cut()
    (span,) = [s for p, s in spans_of(records).items() if writers[0].meta.writer in p]
    reader.advance("metric", span.last + 1, batch_seq=1)
    reader.save()
    reader.close()
    source = open_source(tmp_path)
    assert source.pending() == []
    assert drain(source) == []
    source.close(Deadline(1))
    assert reopening_is_clean(tmp_path)
    for writer in writers:
        writer.close()


def reopening_is_clean(root: Path) -> bool:
    source = open_source(root)
    clean = source.pending() == [] and drain(source) == []
    source.close(Deadline(1))
    return clean


def test_a_pending_batch_waits_for_a_busy_folder(tmp_path: Path) -> None:
    """Nothing else may go first: the worker has to wait until the folder is free."""
    writer = new_writer(tmp_path)
    metric_log(writer).log({"a": 1.0})
    source = open_source(tmp_path)
    records = drain(source)
    source.intend([spans_of(records)])
    source.close(Deadline(1))
    other = FolderReader(writer.folder)
    source = open_source(tmp_path)
    with pytest.raises(Retryable, match="must be written first"):
        source.pending()
    other.close()
    (pending,) = source.pending()
    assert [item.value for item in pending.records] == [item.value for item in records]
    source.close(Deadline(1))
    writer.close()


def test_a_folder_deleted_with_a_pending_batch_does_not_block(tmp_path: Path) -> None:
    """What is left of the batch is written under its token; the loss is logged."""
    writers = [new_writer(tmp_path) for _ in range(2)]
    for writer in writers:
        metric_log(writer).log({"a": 1.0})
    source = open_source(tmp_path)
    (token,) = source.intend([spans_of(drain(source))])
    source.close(Deadline(1))
    shutil.rmtree(writers[0].folder)
    source = open_source(tmp_path)
    (pending,) = source.pending()
    assert (pending.token, list(pending.spans)) == (token, [f"{writers[1].meta.writer}/metric"])
    source.commit(pending.spans)
    source.close(Deadline(1))
    assert reopening_is_clean(tmp_path)
    for writer in writers:
        writer.close()


def test_the_rest_of_a_batch_in_pieces_gets_a_token_of_its_own(tmp_path: Path) -> None:
    """Without the deleted folder the rows have other places: their old tokens would drop them."""
    gone, stays = new_writer(tmp_path), new_writer(tmp_path)
    for writer in (gone, stays):
        metric_log(writer).log({"a": 1.0})
        writer.close()
    source = open_source(tmp_path)
    records = drain(source)
    (token,) = source.intend([spans_of(records)])
    pieces = WHOLE.cut("metrics", 0, 1)
    source.cut(spans_of(records), pieces)
    source.close(Deadline(1))
    source = open_source(tmp_path)
    (pending,) = source.pending()
    assert (pending.token, pending.pieces) == (token, pieces)
    source.close(Deadline(1))
    shutil.rmtree(gone.folder)
    source = open_source(tmp_path)
    (pending,) = source.pending()
    assert (pending.token, pending.pieces) == (f"{token}:rest", WHOLE)
    source.commit(pending.spans)
    assert source.pending() == []
    source.close(Deadline(1))


def test_a_folder_deleted_under_the_reader_is_let_go(tmp_path: Path) -> None:
    """Before and after the intent; other folders are read all the same."""
    gone, stays = new_writer(tmp_path), new_writer(tmp_path)
    log = metric_log(stays)
    metric_log(gone).log({"a": 1.0})
    log.log({"a": 1.0})
    source = open_source(tmp_path)
    records = drain(source)
    shutil.rmtree(gone.folder)
    finish(source, records)
    log.log({"a": 2.0})
    (later,) = drain(source)
    assert later.partition == f"{stays.meta.writer}/metric"
    finish(source, [later])
    source.close(Deadline(1))
    for writer in (gone, stays):
        writer.close()


def test_many_event_records_make_one_line_in_the_journal(tmp_path: Path) -> None:
    """An intent stays small however many lines a trainer prints."""
    writer = new_writer(tmp_path)
    for index in range(500):
        fields = {"stream": "stdout", "name": "console", "level": "info", "text": str(index)}
        writer.append_json("log", {"seq": index, **fields})
    source = open_source(tmp_path)
    records = drain(source)
    assert len(records) == 500
    source.intend([spans_of(records)])
    assert (tmp_path / "journal" / "intents.log").stat().st_size < 1000
    source.close(Deadline(1))
    source = open_source(tmp_path)
    (pending,) = source.pending()
    assert [item.value for item in pending.records] == [item.value for item in records]
    source.close(Deadline(1))
    writer.close()


def test_poll_returns_although_news_keep_coming(tmp_path: Path) -> None:
    """A disk that takes long while writers log on: what was read is handed on, and not gathered."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    names = [f"m{number}" for number in range(1000)]

    class SlowClock(MemoryClock):
        def monotonic_s(self) -> float:
            self.advance(GATHER_S_MAX / 10)
            return super().monotonic_s()

        def unix_ns(self) -> int:
            for _ in range(MUCH_BYTES // (8 * len(names)) + 1):
                log.log(dict.fromkeys(names, 1.0))
            return super().unix_ns()

    for _ in range(100):
        log.log(dict.fromkeys(names, 1.0))
    source = open_source(tmp_path, SlowClock())
    records = source.poll(10.0)
    assert 0 < sum(record.points for record in records) < POINTS_MAX // 2
    source.close(Deadline(1))
    writer.close()
