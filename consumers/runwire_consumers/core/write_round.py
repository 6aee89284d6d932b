"""Round of writes: the batches between their intents and their commit, written here or beside."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from runwire_consumers.core.batch import Batch
from runwire_consumers.core.dead_letters import DeadLetters
from runwire_consumers.core.errors import PiecesNeeded, RowsRejected
from runwire_consumers.core.health import SelfMetrics
from runwire_consumers.core.sink import Sink
from runwire_consumers.core.source import Span


class WriteRound:
    """Batches that have their intents and are not committed yet: written here or beside the loop.

    Bad rows are set aside before the rest of their batch is written. While another thread writes,
    the loop fetches and decodes the next records.
    Threads: the loop calls everything; `launch` starts the only other one, and the loop uses the
    sink only after it has waited for that one.
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
        self._lost: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def batches(self) -> list[Batch]:
        """The batches of this round whose partitions are still ours."""
        batches = [*self._written, *self._unwritten]
        return [batch for batch in batches if self._lost.isdisjoint(batch.spans)]

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
        self._unwritten, self._written, self._lost = list(batches), [], frozenset()

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
            replace(batch, pieces=need.pieces) if batch.token == need.token else batch
            for batch in self._unwritten
        ]

    def clear(self) -> None:
        """End the round: everything is committed."""
        self.begin([])

    def _write_beside(self) -> None:
        try:
            self._write_all()
        except BaseException as error:
            self._failure = error

    def _write_all(self) -> None:
        while self._unwritten:
            batch = self._unwritten[0]
            if self._lost.isdisjoint(batch.spans):
                begin_s = time.perf_counter()
                self._write(batch)
                self._metrics.observe("runwire_worker_write_seconds", time.perf_counter() - begin_s)
            self._written.append(self._unwritten.pop(0))

    def _write(self, batch: Batch) -> None:
        while True:
            self._set_aside(batch)
            try:
                self._sink.write(batch)
                return
            except RowsRejected as error:
                # Same token: tables that took the batch already ignore the repetition.
                batch = self._unwritten[0] = batch.without(error.rejections)
                count = float(len(error.rejections))
                self._metrics.add("runwire_worker_dead_letters_total", count, reason="rejected")

    def _set_aside(self, batch: Batch) -> None:
        if not batch.dead:
            return
        for letter in batch.dead:
            self._dead_letters.put(letter)
        new = self._dead_letters.flush()
        if new:
            self._report_dead(new, batch)
