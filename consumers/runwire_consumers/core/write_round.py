"""Round of writes: the batches between their intents and their commit, written here or beside."""

import threading
import time
from collections.abc import Callable, Sequence

from runwire_consumers.core.batch import BEFORE_POINTS, Batch
from runwire_consumers.core.dead_letters import DeadLetters
from runwire_consumers.core.errors import PiecesNeeded, Retryable, RowsRejected
from runwire_consumers.core.health import SelfMetrics
from runwire_consumers.core.sink import Sink
from runwire_consumers.core.source import Span


class WriteRound:
    """Batches that have their intents and are not committed yet: written here or beside the loop.

    Bad rows are set aside before the rest of their batch is written. What stops one batch leaves
    the others alone: they are written, and only it is written again. While another thread writes,
    the loop fetches and decodes the next records and prepares their blocks.
    Threads: the loop calls everything; `launch` starts the only other one, and while it runs the
    loop calls nothing of the sink but `prepare`.
    """

    def __init__(
        self,
        sink: Sink,
        dead_letters: DeadLetters,
        metrics: SelfMetrics,
        report_dead: Callable[[int, Batch], None],
    ) -> None:
        self._sink, self._dead_letters, self._metrics = sink, dead_letters, metrics
        self._report_dead = report_dead
        self._unwritten: list[Batch] = []
        self._written: list[Batch] = []
        self._stopped: dict[str, Retryable] = {}  # by token; not raised yet
        self._lost: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def batches(self) -> list[Batch]:
        """The batches of this round whose partitions are still ours."""
        return self._ours([*self._written, *self._unwritten])

    @property
    def spans(self) -> dict[str, Span]:
        """The spans that a commit covers."""
        return {p: span for batch in self.batches for p, span in batch.spans.items()}

    @property
    def is_active(self) -> bool:
        """Whether batches wait for their commit."""
        return bool(self._unwritten or self._written)

    @property
    def is_over(self) -> bool:
        """Whether `finish` would return without waiting for the other thread."""
        return self._thread is None or not self._thread.is_alive()

    def begin(self, batches: list[Batch]) -> None:
        """Start a round with these batches; those of the last one are committed."""
        self._unwritten, self._written = list(batches), []
        self._stopped, self._lost = {}, frozenset()

    def launch(self) -> None:
        """Write in a thread of its own; `finish` raises its failure."""
        self._thread = threading.Thread(
            target=self._write_beside, name="runwire-write", daemon=True
        )
        self._thread.start()

    def drop(self, partitions: frozenset[str]) -> None:
        """Treat these partitions as another worker's; writing their batches is harmless."""
        self._lost |= partitions

    def finish(self) -> None:
        """Wait for the other thread, then write the rest in this one.

        Raises: any error of the sink and the dead letters; call again after a Retryable.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.join()
            except BaseException:
                self._thread = thread  # interrupted by a signal: the thread is still writing
                raise
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
        self._write_all()

    def cut(self, need: PiecesNeeded) -> None:
        """Write the batch in these pieces from now on; the source keeps them by now."""
        self._unwritten = [
            batch.in_pieces(need.pieces) if batch.token == need.token else batch
            for batch in self._unwritten
        ]

    def clear(self) -> None:
        """End the round: everything is committed."""
        self.begin([])

    def _ours(self, batches: Sequence[Batch]) -> list[Batch]:
        return [batch for batch in batches if self._lost.isdisjoint(batch.spans)]

    def _write_beside(self) -> None:
        try:
            self._write_all()
        except BaseException as error:
            self._failure = error

    def _write_all(self) -> None:
        while ours := self._ours(self._unwritten):
            # Points wait until runs, parameters and heartbeats are written.
            first = [batch for batch in ours if _is_before_points(batch)] or ours
            ready = [batch for batch in first if batch.token not in self._stopped]
            if not ready:
                raise self._next_stop()
            begin_s = time.perf_counter()
            self._write(ready)
            self._metrics.observe("runwire_worker_write_seconds", time.perf_counter() - begin_s)

    def _write(self, batches: Sequence[Batch]) -> None:
        """Write batches that need not wait for each other; keep those that are stopped."""
        for batch in batches:
            self._set_aside(batch)
        refusals = self._sink.write_round(batches)
        again: dict[str, Batch] = {}
        for batch in batches:
            refusal = refusals.get(batch.token)
            if refusal is None:
                self._written.append(batch)
                continue
            again[batch.token] = batch
            if isinstance(refusal, RowsRejected):
                # Same token: tables that took the batch already ignore the repetition.
                again[batch.token] = batch.without(refusal.rejections)
                count = float(len(refusal.rejections))
                self._metrics.add("runwire_worker_dead_letters_total", count, reason="rejected")
            else:
                self._stopped[batch.token] = refusal
        done = {batch.token for batch in batches} - set(again)
        self._unwritten = [
            again.get(batch.token, batch) for batch in self._unwritten if batch.token not in done
        ]

    def _next_stop(self) -> Retryable:
        """Return the next error to raise; its batch is tried again afterwards."""
        for token, error in self._stopped.items():
            if isinstance(error, PiecesNeeded):  # no time has to pass: the others come later
                return self._stopped.pop(token)
        error = next(iter(self._stopped.values()))
        self._stopped = {}
        return error

    def _set_aside(self, batch: Batch) -> None:
        if not batch.dead:
            return
        for letter in batch.dead:
            self._dead_letters.put(letter)
        new = self._dead_letters.flush()
        if new:
            self._report_dead(new, batch)


def _is_before_points(batch: Batch) -> bool:
    return any(kind in batch.events for kind in BEFORE_POINTS)
