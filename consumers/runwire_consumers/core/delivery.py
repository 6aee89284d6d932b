"""The batches in hand: set aside what is bad, write the rest, in this thread or beside it.

Written beside it, the next records are fetched and decoded meanwhile. One thread at a time uses the
sink: the loop calls it only after it has waited for the other.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from runwire_consumers.core.batch import Batch
from runwire_consumers.core.dead_letters import DeadLetters
from runwire_consumers.core.errors import Retryable, RowsRejected
from runwire_consumers.core.selfmetrics import SelfMetrics
from runwire_consumers.core.sink import Sink
from runwire_consumers.core.source import Span


class Delivery:
    """Batches that have their intents and are not committed yet.

    Threads: the loop calls everything; `launch` starts the only other one.
    """

    def __init__(
        self,
        sink: Sink,
        dead_letters: DeadLetters,
        metrics: SelfMetrics,
        *,
        tell: Callable[[int, Batch], None],
        new_token: Callable[[Mapping[str, Span]], str] | None = None,
    ) -> None:
        self._sink, self._dead_letters, self._metrics = sink, dead_letters, metrics
        self._tell = tell
        self._new_token = new_token
        self._unwritten: list[Batch] = []
        self._written: list[Batch] = []
        self._lost: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def batches(self) -> list[Batch]:
        """What is in hand and still ours."""
        found = [*self._written, *self._unwritten]
        return [batch for batch in found if self._lost.isdisjoint(batch.spans)]

    @property
    def spans(self) -> dict[str, Span]:
        """What a commit covers."""
        return {p: span for batch in self.batches for p, span in batch.spans.items()}

    @property
    def is_active(self) -> bool:
        """Whether batches are in hand."""
        return bool(self._unwritten or self._written)

    @property
    def is_over(self) -> bool:
        """Whether `finish` would not have to wait for the other thread."""
        return self._thread is None or not self._thread.is_alive()

    def begin(self, batches: list[Batch]) -> None:
        """Take batches in hand; the earlier ones are committed."""
        self._unwritten, self._written, self._lost = list(batches), [], frozenset()

    def launch(self) -> None:
        """Write in a thread of its own; `finish` tells how it went."""
        self._thread = threading.Thread(target=self._try, name="runwire-write", daemon=True)
        self._thread.start()

    def drop(self, partitions: frozenset[str]) -> None:
        """Count these as another worker's from now on; writing them again is harmless."""
        self._lost |= partitions

    def finish(self) -> None:
        """Wait for the other thread, else write what is left here.

        Raises: what the sink and the dead letters raise; call again after a Retryable.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.join()
            except BaseException:
                self._thread = thread  # a signal came: it still writes
                raise
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
        self._write_all()

    def clear(self) -> None:
        """Let go of everything: it is committed."""
        self.begin([])

    def _try(self) -> None:
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
            except Retryable:
                if self._new_token is not None:
                    self._unwritten[0] = replace(batch, token=self._new_token(batch.spans))
                raise

    def _set_aside(self, batch: Batch) -> None:
        if not batch.dead:
            return
        for letter in batch.dead:
            self._dead_letters.put(letter)
        new = self._dead_letters.flush()
        if new:
            self._tell(new, batch)
