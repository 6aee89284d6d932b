"""ShippedFolder of one spool folder: cuts go out in order, acknowledged ones move its cursor."""

from __future__ import annotations

import logging
import sys
from collections import deque
from functools import partial
from pathlib import Path

from runwire_agent.ship.broker import (
    GIVEN_UP,
    TOO_LARGE,
    Failure,
    Message,
)
from runwire_agent.ship.cut_journal import CutJournal
from runwire_agent.ship.folder_cuts import BatchRange, FolderCuts
from runwire_agent.ship.in_flight import REFUSED_RETRY_S, InFlight, Sent, SeriesInFlight
from runwire_agent.ship.messages import letter_message, messages_of
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import OVERSIZED_GLOB, SERIES, SpoolError, oversized_name
from runwire_disk.spool.letters import Loss
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import FolderReader

__all__ = ["ShippedFolder"]

_log = logging.getLogger("runwire.agent")

METRIC, LIFECYCLE = "metric", "lifecycle"
SAVE_S = 5.0  # between two cursors of a folder that has news all the time
QUIET_S = 1.5  # after this much without an acknowledgement a writer counts as quiet
REFUSED_RETRY_S_MAX = 30.0
# A series refused for longer than this is stuck.
STUCK_RETRY_S = 8 * REFUSED_RETRY_S
RESEND_S = 0.1  # before records are offered again for another reason than a refusal
REPLAYS_AT_ONCE = 8
CUT_BYTES_MIN = 1024
# How long a full queue of the producer is waited for: 5 s.
QUEUE_FULL_POLLS, QUEUE_FULL_POLL_S = 100, 0.05


class ShippedFolder:
    """The one reader of a spool folder whose records are sent to brokers.

    Raises: SpoolBusy when another process reads the folder, SpoolError when it is no spool folder,
    OSError.
    """

    def __init__(self, folder: Path, in_flight: InFlight, journal: CutJournal) -> None:
        self.folder = folder
        self.reader = FolderReader(folder)
        self.meta = self.reader.meta
        self._in_flight, self._journal = in_flight, journal
        try:
            self.cuts: FolderCuts = journal.open(
                folder,
                self.meta,
                position=self.reader.positions[METRIC],
                saved_batch_seq=self.reader.committed_batch_seq,
            )
        except OSError:
            self.reader.close()
            raise
        while journal.notices:
            _log.warning("%s", journal.notices.pop(0))
        self._series = {name: SeriesInFlight() for name in SERIES}
        self.is_unsaved = self._is_urgent = self._is_closed = False
        self._saved_s = self._news_s = float("-inf")
        self._fresh: list[Cut] = []  # read, and not sent yet
        # The last look had news, or there was none yet.
        self.is_unseen = True
        self._replayed_to = 0
        self._aim = (0, 0)  # accepted points to reach, looks since
        self._begin_metrics()
        # Sent by another process, which alone could have seen their acknowledgements.
        self._in_doubt = frozenset(self._series[METRIC].again)

    @property
    def is_behind(self) -> bool:
        """Tell whether records that were read are not delivered yet."""
        return bool(self._fresh) or any(
            series.sent or series.again or series.is_failed for series in self._series.values()
        )

    @property
    def at_rest(self) -> bool:
        """Tell whether everything that was read is delivered."""
        return self.reader.at_rest and not self.is_behind

    @property
    def is_short(self) -> bool:
        """Tell whether no file descriptor was left at the last look."""
        return self.reader.is_short

    def has_news(self) -> bool:
        """Tell cheaply whether `read` would find something, or has cuts to repeat."""
        metrics = self._series[METRIC]
        return bool(metrics.again and not metrics.is_failed) or self.reader.has_news()

    @property
    def drained(self) -> bool:
        """Tell whether the writer is gone and everything it committed is delivered."""
        return self.reader.drained and not self.is_behind

    @property
    def is_stuck(self) -> bool:
        """Tell whether metrics have been refused for a while and nothing else is under way."""
        metrics = self._series[METRIC]
        is_resting = metrics.is_failed and metrics.retry_s >= STUCK_RETRY_S
        return is_resting and not any(series.sent for series in self._series.values())

    def aim(self) -> None:
        """Remember the writer's present position, for `has_reached`.

        A position that cannot be read is never reached. Raises: FileNotFoundError.
        """
        self.is_unseen = True
        try:
            self._aim = (progress(self.folder).accepted, 0)
        except FileNotFoundError:
            raise
        except OSError:
            self._aim = (sys.maxsize, 0)

    @property
    def has_reached(self) -> bool:
        """Tell whether everything written before `aim` was read, while its writer lives."""
        accepted, looks = self._aim
        if self.reader.writer_gone:
            return False  # then it is read to its end, and deleted
        return looks > 1 and self.reader.accepted >= accepted and not self._series[METRIC].again

    @property
    def has_oversized(self) -> bool:
        """Tell whether the folder keeps records that no broker takes. Raises: OSError."""
        # `glob` finds nothing where no descriptor is left.
        return any(path.match(OVERSIZED_GLOB) for path in self.folder.iterdir())

    def read(self) -> int:
        """Read the next cuts, which `send` sends; return how many bytes of the spool they were.

        Cuts that may have been sent before are sent again at once.
        Raises: FileNotFoundError when the folder is gone.
        """
        self._aim = (self._aim[0], self._aim[1] + 1)
        metrics = self._series[METRIC]
        ready = [name for name, series in self._series.items() if not series.is_failed]
        replayed = 0
        if metrics.again and METRIC in ready:
            replayed = self._replay(metrics)
            ready.remove(METRIC)
        self.reader.limit_cuts(self._in_flight.cut_bytes)
        self._fresh = self.reader.read(ready)
        news = replayed + sum(cut.spool_bytes for cut in self._fresh)
        # A look that repeated cuts has not seen what follows them.
        self.is_unseen = bool(news) or self.is_behind or METRIC not in ready
        return news

    @property
    def has_fresh(self) -> bool:
        """Tell whether cuts wait for `send`."""
        return bool(self._fresh)

    @property
    def fresh_bytes(self) -> int:
        """Return the size of the values that wait for `send`."""
        return sum(len(cut.value) for cut in self._fresh)

    @property
    def fresh_ranges(self) -> list[BatchRange]:
        """Return the metric cuts that must be in the journal before `send`."""
        metrics = (cut for cut in self._fresh if cut.series == METRIC)
        return [BatchRange(c.first_seq, c.last_seq, c.batch_seq) for c in metrics]

    def send(self) -> None:
        """Send the cuts that were read; they are in the journal, and their files are synced."""
        self.reader.synced()
        cuts, self._fresh = self._fresh, []
        for cut in cuts:
            self._send(cut)

    def settle(self, now_s: float) -> None:
        """Advance past acknowledged cuts; offer refused ones again, after a rest."""
        for name, series in self._series.items():
            while series.sent and not series.sent[0].waiting and series.sent[0].failure is None:
                cut = series.sent.popleft().cut
                self.reader.advance(name, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)
                series.retry_s = REFUSED_RETRY_S
                self.is_unsaved, self._news_s = True, now_s
                self._is_urgent |= name == LIFECYCLE
            if not series.is_failed:
                continue
            if series.sent and not any(sent.waiting for sent in series.sent):
                self._refused(name, series, now_s)
            if not series.sent and now_s >= series.retry_at_s:
                self._restart(name, series)
        if not any(series.is_failed for series in self._series.values()):
            self._in_flight.reported.discard(self)

    def is_save_due(self, now_s: float) -> bool:
        """Tell whether to save the cursor now: every few seconds, or because somebody waits.

        The journal makes a replay exact, so the cursor may be old. A caller may wait in `flush`,
        the end of a run in `finish`, a person for a quiet spool, and a segment for its deletion.
        """
        return self.is_unsaved and (
            self._is_urgent
            or now_s - self._saved_s >= SAVE_S
            or now_s - self._news_s >= QUIET_S
            or self.reader.has_consumed_segment()
            or self.reader.is_awaited()
        )

    def save(self, now_s: float = float("-inf")) -> None:
        """Write the cursor and delete what it covers. Raises: OSError."""
        if self.is_unsaved:
            self._saved_s = now_s
            self.reader.save()
            self.is_unsaved = self._is_urgent = False
            self._journal.forget(
                self.cuts, self.reader.positions[METRIC], self.reader.committed_batch_seq
            )

    def remove(self) -> None:
        """Delete the folder of a writer that is gone and wholly delivered."""
        self.reader.remove()
        self._is_closed = True
        self._in_flight.reported.discard(self)
        # Not before: one that cannot be deleted is read again from its saved position.
        self._journal.release(self.cuts, is_deleted=True)

    def close(self) -> None:
        """Release the folder; the next reader reads again from the saved position."""
        self._is_closed = True  # reports that are still to come are of the next reader's cuts
        self._in_flight.reported.discard(self)
        self._journal.release(self.cuts)
        self.reader.close()

    def _send(self, cut: Cut, *, is_replayed: bool = False) -> None:
        sent = Sent(cut, is_replayed=is_replayed)
        self._series[cut.series].sent.append(sent)
        for message in messages_of(cut, self.meta, self._in_flight.value_of):
            self._produce(sent, message)

    def _produce(self, sent: Sent, message: Message) -> None:
        size = len(message.value)
        sent.waiting += 1
        sent.value_bytes = max(sent.value_bytes, size)
        self._in_flight.bytes += size
        done = partial(self._done, sent, message)
        for _ in range(QUEUE_FULL_POLLS):
            if self._in_flight.broker.produce(message, done):
                return
            self._in_flight.broker.poll(QUEUE_FULL_POLL_S)
        done(Failure(GIVEN_UP, "the producer's queue stayed full"))

    def _done(self, sent: Sent, message: Message, failure: Failure | None) -> None:
        sent.waiting -= 1
        if not self._is_closed:
            self._in_flight.reported.add(self)
        self._in_flight.bytes -= len(message.value)
        if failure is None:
            self._in_flight.delivered += 1
            self._in_flight.points += message.points
            self._in_flight.refused.pop(message.kind, None)
        else:
            sent.failure, sent.kind = failure, message.kind
            self._series[sent.cut.series].is_failed = True

    def _refused(self, name: str, series: SeriesInFlight, now_s: float) -> None:
        """Plan the next try of a series whose first unacknowledged cut was not taken.

        Everything behind it is read again, byte for byte the same, delivered or not.
        """
        head = series.sent[0]
        failure, series.retry_at_s = head.failure, now_s + RESEND_S
        series.sent.clear()
        if failure is None or failure.kind == GIVEN_UP:
            return  # the shipper resumes when brokers can be reached
        if failure.kind != TOO_LARGE:
            self._in_flight.refused[head.kind] = failure
            series.retry_at_s = now_s + series.retry_s
            series.retry_s = min(REFUSED_RETRY_S_MAX, 2 * series.retry_s)
        elif head.value_bytes < self._in_flight.broker.batch_bytes:
            # It was one of several in a batch: the batch may have been too large, not the cut.
            smaller = max(head.value_bytes, self._in_flight.broker.batch_bytes // 4)
            self._in_flight.batch_bytes_wanted = min(
                smaller, self._in_flight.batch_bytes_wanted or smaller
            )
        elif name == METRIC and head.cut.first_seq < head.cut.last_seq:
            cut = head.cut
            smaller = max(CUT_BYTES_MIN, head.value_bytes // 2)
            self._in_flight.cut_bytes = min(self._in_flight.cut_bytes, smaller)
            if head.is_replayed:
                _log.warning(
                    "batch %d of writer %s may have been stored before its topic's limit was "
                    "lowered; it is sent again in halves, and v_completeness may count it twice",
                    cut.batch_seq,
                    cut.writer,
                )
            refused = BatchRange(cut.first_seq, cut.last_seq, cut.batch_seq)
            self._journal.add((self.cuts, half) for half in self.cuts.halves(refused))
        else:
            self._set_aside(series, head.cut)

    def _set_aside(self, series: SeriesInFlight, cut: Cut) -> None:
        """Keep a record that no broker accepts beside the segments, and send what follows it."""
        path = self.folder / oversized_name(cut.series, cut.first_seq)
        path.write_bytes(cut.value)
        reason = (
            f"one {cut.kind} record of {len(cut.value):,} bytes is larger than its topic takes. It "
            f"is kept in {path.name} of spool folder {self.folder.name}; raise the topic's "
            "max.message.bytes (`runwire migrate`) and log less in one call"
        )
        _log.error("run %s: %s", self.meta.run_id, reason)
        self._in_flight.set_aside += 1
        sent = Sent(cut)
        series.sent.append(sent)
        loss = Loss(reason=reason, points=cut.points)
        self._produce(sent, letter_message(cut, self.meta, loss, self._in_flight.value_of))

    def _restart(self, name: str, series: SeriesInFlight) -> None:
        series.is_failed = False
        self.reader.rewind([name])
        if name == METRIC:
            self._begin_metrics()

    def _begin_metrics(self) -> None:
        """Queue the cuts that may have been sent, before any new one."""
        position = self.reader.positions[METRIC]
        self._series[METRIC].again = deque(self.cuts.open_cuts(position))
        self._replayed_to = position
        self.reader.batch_seq = max(self.reader.batch_seq, self.cuts.next_batch_seq)

    def _replay(self, series: SeriesInFlight) -> int:
        """Send the next cuts of the journal again; return their size."""
        size = 0
        for _ in range(min(REPLAYS_AT_ONCE, len(series.again))):
            cut = series.again.popleft()
            if self._replayed_to < cut.first_seq:
                self._fill(self._replayed_to, cut.first_seq - 1)
            size += self._rebuild(cut)
            self._replayed_to = cut.last_seq + 1
        if not series.again:
            after = self.cuts.next_batch_seq
            self.reader.pass_over(METRIC, self._replayed_to, batch_seq=after)
        return size

    def _rebuild(self, cut: BatchRange) -> int:
        if self.reader.is_given_up(METRIC, cut.first_seq):
            return 0  # evicted by the quota, and counted as dropped
        first, last, number = cut
        try:
            cuts = self.reader.replay(METRIC, first, last, batch_seq=number)
        except SpoolError as error:
            _log.warning("batch %d may have been sent and cannot be sent again: %s", number, error)
            return 0
        for again in cuts:
            self._send(again, is_replayed=cut in self._in_doubt)
        return sum(len(again.value) for again in cuts)

    def _fill(self, first: int, last: int) -> None:
        """Send records between two cuts of the journal; without damage they are layouts only."""
        if self.reader.is_given_up(METRIC, first):
            return
        cut = BatchRange(first, last, self.cuts.next_batch_seq)
        try:
            cuts = self.reader.replay(METRIC, first, last, batch_seq=cut.batch_seq)
        except SpoolError:
            return
        self._journal.add([(self.cuts, cut)])
        for again in cuts:
            self._send(again)
