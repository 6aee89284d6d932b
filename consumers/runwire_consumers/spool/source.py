"""Source of records from the spool: the worker reads local writers' folders without a broker.

A record is one cut of one series of one writer; its partition is "<writer>/<series>" and its
offsets are the spool's sequence numbers. A book keeps the cuts that were polled and not committed
yet, so that an intent can name each of them and a restart can rebuild exactly those.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from runwire_consumers.core.clock import Clock, Deadline, SystemClock
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.pieces import Pieces
from runwire_consumers.core.source import Pending, Record, Span
from runwire_consumers.spool.journal import CutRange, Intent, Journal
from runwire_disk.paths import spool_dir
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.folder_set import FolderSet
from runwire_disk.spool.format import LOCAL, SpoolBusy, SpoolError
from runwire_disk.spool.group_sync import sync_files
from runwire_disk.spool.letters import LOSS_INDEX, loss_of, partition_of
from runwire_disk.spool.look_pace import MUCH_BYTES, LookPace
from runwire_disk.spool.reader import FolderReader

_log = logging.getLogger("runwire.spool")

METRIC_SERIES = "metric"
READ_GATHER_S = 0.25  # each cut costs a row of bookkeeping
READ_REST_S_MAX = 0.5  # news must be seen within a second
GATHER_S_MAX = 0.3  # of one poll; its last look may take longer
POINTS_MAX = 1_000_000  # of one poll: about one batch


class SpoolSource:
    """Reads every local folder under `<root>/spool`.

    Threads: one.
    """

    def __init__(
        self,
        root: Path,
        journal: Journal,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._journal = journal
        self._clock = clock or SystemClock()
        self._spool = spool_dir(root)
        self._folders = FolderSet(
            root,
            FolderReader,
            is_mine=lambda _folder, meta: meta.route == LOCAL,
            monotonic_s=self._clock.monotonic_s,
        )
        self._book: dict[str, deque[tuple[CutRange, int]]] = {}
        self._intent: Intent | None = None
        self._is_paused = False
        self._pace = LookPace(READ_GATHER_S, READ_REST_S_MAX)

    def poll(self, timeout_s: float) -> list[Record]:
        """Return new cuts, none while an intent is pending. Blocks: at most `timeout_s`."""
        if self._is_paused or self._journal.pending is not None:
            self._clock.sleep(timeout_s)
            return []
        end_s = self._clock.monotonic_s() + timeout_s
        while True:
            now_s = self._clock.monotonic_s()
            if now_s >= self._pace.next_s:
                self._folders.rescan()
                records = self._gather(now_s)
                if records:
                    return records
            left_s = end_s - self._clock.monotonic_s()
            if left_s <= 0:
                return []
            self._clock.sleep(min(left_s, max(0.0, self._pace.next_s - self._clock.monotonic_s())))

    def pending(self) -> list[Pending]:
        """Return the open intent with its records rebuilt.

        Raises: Retryable when another process holds one of its folders, SpoolError when a folder
        is there and its records are not.
        """
        intent = self._journal.pending
        if intent is None:
            return []
        self._intent = intent
        present = self._present(intent)
        # A cursor beyond a cut exists only if the insert had succeeded: the commit had begun.
        begun = any(reader.positions[cut.series] > cut.last_seq for cut, reader in present.items())
        is_short = len(present) < len(intent.cuts)
        records: list[Record] = []
        for cut, reader in present.items():
            rebuilt = self._rebuild(cut, reader)
            is_short |= not rebuilt
            for again in rebuilt:
                records += _records(again, intent.append_at_ns)
        if begun or not records:
            _log.info("batch %s needs no second insert, its commit is finished now", intent.token)
            self._settle(intent, present)
            return []
        spans: dict[str, Span] = {}
        for record in records:
            old = spans.get(record.partition)
            spans[record.partition] = Span(old.first if old else record.offset, record.last_offset)
        pending = Pending(intent.token, spans, intent.append_at_ns, records, intent.pieces)
        return [pending.in_part() if is_short else pending]

    def lane(self, partition: str) -> str:
        """Return the one lane of all folders: journal and reader locks fence them together."""
        return ""

    def revoked(self) -> frozenset[str]:
        """Return nothing: no process can take a folder whose lock this source holds."""
        return frozenset()

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        """Write the cuts that make this batch to the journal; return its token."""
        (spans,) = batches
        cuts: list[CutRange] = []
        append_at_ns = 0
        for partition, span in spans.items():
            inside = [entry for entry in self._book[partition] if entry[0].last_seq <= span.last]
            if not inside or inside[0][0].first_seq != span.first:
                raise SpoolError(f"intent for {partition} {span}, which was not polled like that")
            append_at_ns = max(append_at_ns, *(stamp for _, stamp in inside))
            cuts += _merged(cut for cut, _ in inside)
        self._intent = self._journal.intend(append_at_ns, cuts)
        return [self._intent.token]

    def cut(self, spans: Mapping[str, Span], pieces: Pieces) -> None:
        """Write the pieces of the open intent to the journal."""
        self._journal.cut(pieces)

    def commit(self, spans: Mapping[str, Span]) -> None:
        """Advance and save the cursors of the intent's folders, then mark it done."""
        if self._intent is None:
            raise SpoolError("commit without an intent: call intend first")
        for partition, span in spans.items():
            entries = self._book.get(partition)
            while entries and entries[0][0].last_seq <= span.last:
                entries.popleft()
            if not entries:
                self._book.pop(partition, None)
        present = {cut: self._folders.get(self._spool / cut.folder) for cut in self._intent.cuts}
        self._settle(self._intent, {c: r for c, r in present.items() if r is not None})

    def pause(self) -> None:
        """Yield nothing until `resume`; the folders stay locked."""
        self._is_paused = True

    def resume(self) -> None:
        """Undo `pause`."""
        self._is_paused = False

    def close(self, deadline: Deadline) -> None:
        """Release folders and journal."""
        self._folders.close()
        self._journal.close()

    def _gather(self, begin_s: float) -> list[Record]:
        """Read until there is little news, for a moment: what was read must not wait for more."""
        records: list[Record] = []
        end_s = begin_s + GATHER_S_MAX
        points = size = 0
        while points < POINTS_MAX:
            cuts = self._look()
            now_ns = self._clock.unix_ns()
            for name, cut in cuts:
                records += _records(cut, now_ns)
                self._enter(name, cut, now_ns)
                points += cut.points
            news = sum(cut.spool_bytes for _, cut in cuts)
            size += news
            if news < MUCH_BYTES or self._clock.monotonic_s() >= end_s:
                break
        self._pace.note(
            begin_s=begin_s,
            end_s=self._clock.monotonic_s(),
            has_news=bool(records),
            news_bytes=size,
        )
        self._folders.tidy(has_news=bool(records))
        return records

    def _look(self) -> list[tuple[str, Cut]]:
        """Read all folders, then sync their files together: synced before delivered."""
        cuts: list[tuple[str, Cut]] = []
        readers: list[FolderReader] = []
        self._folders.visit(partial(_read_folder, cuts, readers))
        for error in sync_files(fd for reader in readers for fd in reader.unsynced()).values():
            raise error
        for reader in readers:
            reader.synced()
        return cuts

    def _enter(self, folder: str, cut: Cut, stamp_ns: int) -> None:
        entry = CutRange(
            folder=folder,
            writer=cut.writer,
            series=cut.series,
            first_seq=cut.first_seq,
            last_seq=cut.last_seq,
            batch_seq=cut.batch_seq,
        )
        self._book.setdefault(partition_of(cut), deque()).append((entry, stamp_ns))

    def _present(self, intent: Intent) -> dict[CutRange, FolderReader]:
        present: dict[CutRange, FolderReader] = {}
        for cut in intent.cuts:
            try:
                present[cut] = self._folders.hold(self._spool / cut.folder)
            except SpoolBusy as error:
                raise Retryable(0.5, f"batch {intent.token} must be written first: {error}") from (
                    error
                )
            except SpoolError as error:
                _log.warning(
                    "part of batch %s cannot be written again, its folder is gone: %s",
                    intent.token,
                    error,
                )
        return present

    def _rebuild(self, cut: CutRange, reader: FolderReader) -> list[Cut]:
        """Return the cuts of a range, none when its commit had begun.

        The reader moves past them in memory, so that the next range continues there; on disk its
        cursor moves with the commit.
        """
        if reader.positions[cut.series] > cut.last_seq or reader.is_given_up(
            cut.series, cut.first_seq
        ):
            return []
        cuts: list[Cut] = []
        first = cut.first_seq
        while first <= cut.last_seq:  # one call yields at most what one segment holds
            cuts += reader.replay(cut.series, first, cut.last_seq, batch_seq=cut.batch_seq)
            first = cuts[-1].last_seq + 1
        reader.advance(cut.series, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)
        return cuts

    def _settle(self, intent: Intent, present: Mapping[CutRange, FolderReader]) -> None:
        for cut, reader in present.items():
            reader.advance(cut.series, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)
        for folder in {self._spool / cut.folder for cut in present}:
            if self._folders.get(folder) is not None:
                self._folders.save(folder)
        self._journal.done(intent)
        self._intent = None


def _read_folder(
    cuts: list[tuple[str, Cut]], readers: list[FolderReader], reader: FolderReader
) -> int:
    """Add the next cuts of a folder, and the folder if it has any; return their number."""
    try:
        fresh = reader.read()
    except FileNotFoundError:
        raise
    except Exception as error:
        error.add_note(f"while reading spool folder {reader.folder}")
        raise
    if fresh:
        cuts += [(reader.folder.name, cut) for cut in fresh]
        readers.append(reader)
    return len(fresh)


def _records(cut: Cut, append_at_ns: int) -> Iterator[Record]:
    """Yield the record of a cut, and one about its losses, which becomes a dead letter."""
    record = Record(
        stream=cut.kind,
        partition=partition_of(cut),
        offset=cut.first_seq,
        last_offset=cut.last_seq,
        append_at_ns=append_at_ns,
        value=cut.value,
        key=cut.writer.encode(),
        points=cut.points,
    )
    if cut.value:
        yield record
    loss = loss_of(cut)
    if loss is not None:
        yield replace(
            record,
            value=loss.evidence,
            points=loss.points,
            damage=loss.reason,
            index=LOSS_INDEX,
        )


def _merged(cuts: Iterable[CutRange]) -> list[CutRange]:
    """Join neighbours of the series whose cuts are single records; metric cuts stay apart."""
    merged: list[CutRange] = []
    for cut in cuts:
        last = merged[-1] if merged else None
        if last is not None and cut.series != METRIC_SERIES and cut.first_seq == last.last_seq + 1:
            merged[-1] = last._replace(last_seq=cut.last_seq)
        else:
            merged.append(cut)
    return merged
