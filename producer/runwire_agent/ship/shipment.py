"""Ships one spool folder: cuts go out in order, acknowledged ones move the folder's cursor."""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from pathlib import Path

from runwire_agent.ship.broker import GIVEN_UP, TOO_LARGE, Failure, Message
from runwire_agent.ship.cuts_log import CutJournal, CutRange
from runwire_agent.ship.in_flight import RETRY_S, Lane, Outbox, Sent
from runwire_agent.ship.messages import letter, messages_of
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.format import OVERSIZED_FILE, OVERSIZED_FILES, SERIES, SpoolError
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import FolderReader

__all__ = ["Shipment"]

_log = logging.getLogger("runwire.agent")

METRIC = "metric"
RETRY_S_MAX = 30.0
REPLAYS_AT_ONCE = 8
STUCK_RETRY_S = 8 * RETRY_S
CUT_BYTES_MIN = 1024
AGAIN_S = 0.1  # before the same records are offered again for another reason than a refusal
# How long a full queue of the producer is waited for: 5 s.
FULL_POLLS, FULL_POLL_S = 100, 0.05


class Shipment:
    """The one reader of a spool folder, on its way to the brokers.

    Raises: SpoolBusy when another process reads the folder, SpoolError when it is none, OSError.
    """

    def __init__(self, folder: Path, outbox: Outbox) -> None:
        self.folder = folder
        self.reader = FolderReader(folder)
        self.meta = self.reader.meta
        self._outbox = outbox
        try:
            self._journal = CutJournal(folder)
        except OSError:
            self.reader.close()
            raise
        for notice in self._journal.notices:
            _log.warning("%s", notice)
        self._lanes = {name: Lane() for name in SERIES}
        self.is_unsaved = False
        self._replayed_to = 0
        self._aim = (0, 0)  # accepted points to reach, looks since
        self._begin_metrics()
        # Sent by another process, which alone could have seen what became of them.
        self._in_doubt = frozenset(self._lanes[METRIC].again)

    @property
    def is_behind(self) -> bool:
        """Tell whether something that was read is not delivered."""
        return any(lane.sent or lane.again or lane.is_failed for lane in self._lanes.values())

    @property
    def is_stuck(self) -> bool:
        """Tell whether metrics have been refused for a while and nothing else is under way."""
        metrics = self._lanes[METRIC]
        is_resting = metrics.is_failed and metrics.retry_s >= STUCK_RETRY_S
        return is_resting and not any(lane.sent for lane in self._lanes.values())

    def aim(self) -> None:
        """Remember how far the writer is now, for `has_reached`. Raises: OSError."""
        self._aim = (progress(self.folder).accepted, 0)

    @property
    def has_reached(self) -> bool:
        """Tell whether everything written before `aim` was read, while its writer goes on."""
        accepted, looks = self._aim
        if self.reader.writer_gone:
            return False  # then it is read to its end, and goes
        return looks > 1 and self.reader.accepted >= accepted and not self._lanes[METRIC].again

    @property
    def has_oversized(self) -> bool:
        """Tell whether records lie here that no broker takes."""
        return any(self.folder.glob(OVERSIZED_FILES))

    def take(self) -> int:
        """Send the next cuts; return how far the spool was read, in bytes.

        Blocks: one fdatasync of the journal. Raises: FileNotFoundError when the folder is gone.
        """
        self._aim = (self._aim[0], self._aim[1] + 1)
        metrics = self._lanes[METRIC]
        ready = [name for name, lane in self._lanes.items() if not lane.is_failed]
        replayed = 0
        if metrics.again and METRIC in ready:
            replayed = self._replay(metrics)
            ready.remove(METRIC)
        self.reader.limit_cuts(self._outbox.cut_bytes)
        cuts = self.reader.cut(ready)
        fresh = [cut for cut in cuts if cut.series == METRIC]
        if fresh:
            self._journal.add(CutRange(c.first_seq, c.last_seq, c.batch_seq) for c in fresh)
        for cut in cuts:
            self._send(cut)
        return replayed + sum(cut.spool_bytes for cut in cuts)

    def settle(self, now_s: float) -> None:
        """Advance past what has been acknowledged; offer again what was refused, after a while."""
        for name, lane in self._lanes.items():
            while lane.sent and not lane.sent[0].waiting and lane.sent[0].failure is None:
                cut = lane.sent.popleft().cut
                self.reader.advance(name, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)
                lane.retry_s = RETRY_S
                self.is_unsaved = True
            if not lane.is_failed:
                continue
            if lane.sent and not any(sent.waiting for sent in lane.sent):
                self._refused(name, lane, now_s)
            if not lane.sent and now_s >= lane.retry_at_s:
                self._restart(name, lane)

    def save(self) -> None:
        """Write the cursor and delete what it covers. Raises: OSError."""
        if self.is_unsaved:
            self.is_unsaved = False
            self.reader.save()
            self._journal.forget(self.reader.positions[METRIC])

    def remove(self) -> None:
        """Delete the folder of a writer that is gone and wholly delivered."""
        self._journal.close()
        self.reader.remove()

    def close(self) -> None:
        """Release the folder; what is not saved is read again by the next reader."""
        self._journal.close()
        self.reader.close()

    def _send(self, cut: Cut, *, is_replayed: bool = False) -> None:
        sent = Sent(cut, is_replayed=is_replayed)
        self._lanes[cut.series].sent.append(sent)
        for message in messages_of(cut, self.meta, self._outbox.value_of):
            self._produce(sent, message)

    def _produce(self, sent: Sent, message: Message) -> None:
        size = len(message.value)
        sent.waiting += 1
        sent.value_bytes = max(sent.value_bytes, size)
        self._outbox.bytes += size
        done = partial(self._done, sent, message)
        for _ in range(FULL_POLLS):
            if self._outbox.broker.produce(message, done):
                return
            self._outbox.broker.poll(FULL_POLL_S)
        done(Failure(GIVEN_UP, "the producer's queue stayed full"))

    def _done(self, sent: Sent, message: Message, failure: Failure | None) -> None:
        sent.waiting -= 1
        self._outbox.bytes -= len(message.value)
        if failure is None:
            self._outbox.delivered += 1
            self._outbox.points += message.points
            self._outbox.refused.pop(message.kind, None)
        else:
            sent.failure, sent.kind = failure, message.kind
            self._lanes[sent.cut.series].is_failed = True

    def _refused(self, name: str, lane: Lane, now_s: float) -> None:
        """Decide what becomes of a series whose first unacknowledged cut was not taken.

        Everything behind it is read again, byte for byte the same, delivered or not.
        """
        head = lane.sent[0]
        failure, lane.retry_at_s = head.failure, now_s + AGAIN_S
        lane.sent.clear()
        if failure is None or failure.kind == GIVEN_UP:
            return  # the shipper goes on when brokers can be reached
        if failure.kind != TOO_LARGE:
            self._outbox.refused[head.kind] = failure
            lane.retry_at_s = now_s + lane.retry_s
            lane.retry_s = min(RETRY_S_MAX, 2 * lane.retry_s)
        elif head.value_bytes < self._outbox.broker.batch_bytes:
            # It travelled in a batch with others, which may have been what was too large.
            smaller = max(head.value_bytes, self._outbox.broker.batch_bytes // 4)
            self._outbox.batch_bytes_wanted = min(
                smaller, self._outbox.batch_bytes_wanted or smaller
            )
        elif name == METRIC and head.cut.first_seq < head.cut.last_seq:
            cut = head.cut
            smaller = max(CUT_BYTES_MIN, head.value_bytes // 2)
            self._outbox.cut_bytes = min(self._outbox.cut_bytes, smaller)
            if head.is_replayed:
                _log.warning(
                    "batch %d of writer %s may have been stored before its topic's limit was "
                    "lowered; it is sent again in halves, and v_completeness may count it twice",
                    cut.batch_seq,
                    cut.writer,
                )
            self._journal.split(CutRange(cut.first_seq, cut.last_seq, cut.batch_seq))
        else:
            self._set_aside(lane, head.cut)

    def _set_aside(self, lane: Lane, cut: Cut) -> None:
        """Keep a record that no broker takes beside the segments, and go on after it."""
        path = self.folder / OVERSIZED_FILE.format(series=cut.series, seq=cut.first_seq)
        path.write_bytes(cut.value)
        reason = (
            f"one {cut.kind} record of {len(cut.value):,} bytes is larger than its topic takes. It "
            f"is kept in {path.name} of spool folder {self.folder.name}; raise the topic's "
            "max.message.bytes (`runwire migrate`) and log less in one call"
        )
        _log.error("run %s: %s", self.meta.run_id, reason)
        self._outbox.set_aside += 1
        sent = Sent(cut)
        lane.sent.append(sent)
        about = letter(
            cut, self.meta, self._outbox.value_of, reason=reason, value=b"", points=cut.points
        )
        self._produce(sent, about)

    def _restart(self, name: str, lane: Lane) -> None:
        lane.is_failed = False
        self.reader.rewind([name])
        if name == METRIC:
            self._begin_metrics()

    def _begin_metrics(self) -> None:
        """Put the cuts that may have been sent before everything new."""
        position = self.reader.positions[METRIC]
        self._lanes[METRIC].again = deque(self._journal.open_cuts(position))
        self._replayed_to = position
        self.reader.batch_seq = max(self.reader.batch_seq, self._journal.next_batch_seq)

    def _replay(self, lane: Lane) -> int:
        """Send the next cuts of the journal again; return their size."""
        size = 0
        for _ in range(min(REPLAYS_AT_ONCE, len(lane.again))):
            cut = lane.again.popleft()
            if self._replayed_to < cut.first_seq:
                self._fill(self._replayed_to, cut.first_seq - 1)
            size += self._rebuild(cut)
            self._replayed_to = cut.last_seq + 1
        if not lane.again:
            after = self._journal.next_batch_seq
            self.reader.pass_over(METRIC, self._replayed_to, batch_seq=after)
        return size

    def _rebuild(self, cut: CutRange) -> int:
        if self.reader.is_given_up(METRIC, cut.first_seq):
            return 0  # deleted for want of space, and counted as dropped
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
        cut = CutRange(first, last, self._journal.next_batch_seq)
        try:
            cuts = self.reader.replay(METRIC, first, last, batch_seq=cut.batch_seq)
        except SpoolError:
            return
        self._journal.add([cut])
        for again in cuts:
            self._send(again)
