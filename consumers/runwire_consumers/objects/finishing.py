"""Finishes artifacts beside the loop: joining gigabytes takes longer than a group waits for a poll.

What waits here lies in staging as well. After a crash `recover` finds it again, so nothing here has
to be remembered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.health import SelfMetrics
from runwire_consumers.core.patience import Backoff
from runwire_consumers.objects.completion import Completion
from runwire_store.store import UNAVAILABLE

_log = logging.getLogger("runwire.objects")

# One is busy with gigabytes, the other one still serves small artifacts.
THREADS: Final = 2
_RETRY_FIRST_S, _RETRY_MAX_S = 0.5, 30.0


class Finishing:
    """Threads that finish what they are told, until it works. Threads: any."""

    def __init__(self, completion: Completion, metrics: SelfMetrics, *, threads: int = THREADS):
        self._completion, self._metrics = completion, metrics
        self._waiting: deque[str] = deque()
        self._at_work: dict[str, bool] = {}
        self._changed = threading.Condition()
        self._is_over = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"runwire-finish-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, artifact: str) -> None:
        """Look soon whether the artifact is complete, and finish it then."""
        with self._changed:
            if artifact in self._at_work:
                self._at_work[artifact] = True  # it may have looked too early
            elif artifact not in self._waiting:
                self._waiting.append(artifact)
            self._changed.notify_all()
            self._count()

    def is_busy(self) -> bool:
        """Whether something waits or is worked on."""
        with self._changed:
            return bool(self._waiting or self._at_work)

    def close(self, seconds: float) -> None:
        """End after the artifact in hand. Blocks: at most `seconds`; the rest is found again."""
        end_s = time.monotonic() + seconds
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _serve(self) -> None:
        while (artifact := self._next()) is not None:
            try:
                self._insist(artifact)
            finally:
                self._release(artifact)

    def _next(self) -> str | None:
        with self._changed:
            while not self._waiting and not self._is_over:
                self._changed.wait()
            if self._is_over:
                return None
            artifact = self._waiting.popleft()
            self._at_work[artifact] = False
            return artifact

    def _release(self, artifact: str) -> None:
        with self._changed:
            if self._at_work.pop(artifact):
                self._waiting.append(artifact)
                self._changed.notify_all()
            self._count()

    def _insist(self, artifact: str) -> None:
        backoff = Backoff(_RETRY_FIRST_S, _RETRY_MAX_S)
        said = ""
        while True:
            begin_s = time.monotonic()
            try:
                outcome = self._completion.finish(artifact)
            except (*UNAVAILABLE, Retryable) as error:
                wait_s = backoff.next_s(0.0)
                if str(error) != said:
                    said = str(error)
                    _log.warning("artifact %s waits: %s", artifact, said)
                with self._changed:
                    if self._changed.wait_for(lambda: self._is_over, wait_s):
                        return
            except Exception:
                # The next start, or the hourly look, tries again; the others go on meanwhile.
                _log.exception("artifact %s is set aside, its pieces stay in staging", artifact)
                self._metrics.add("runwire_worker_artifacts_total", outcome="error")
                return
            else:
                if outcome:
                    spent_s = time.monotonic() - begin_s
                    _log.info("artifact %s is %s (%.1f s)", artifact, outcome, spent_s)
                    self._metrics.add("runwire_worker_artifacts_total", outcome=outcome)
                return

    def _count(self) -> None:
        waiting = len(self._waiting) + len(self._at_work)
        self._metrics.set("runwire_worker_unfinished_artifacts", waiting)


class Upkeep:
    """Calls `look` every `every_s` in a thread of its own, the first time at once."""

    def __init__(self, look: Callable[[], None], every_s: float) -> None:
        self._look, self._every_s = look, every_s
        self._wake, self._is_over = threading.Event(), False
        self._thread = threading.Thread(target=self._serve, name="runwire-upkeep", daemon=True)
        self._thread.start()

    def soon(self) -> None:
        """Look now. Threads: any."""
        self._wake.set()

    def close(self, seconds: float) -> None:
        """End it. Blocks: at most `seconds`."""
        self._is_over = True
        self._wake.set()
        self._thread.join(seconds)

    def _serve(self) -> None:
        backoff = Backoff(_RETRY_FIRST_S, _RETRY_MAX_S)
        wait_s = 0.0
        while True:
            self._wake.wait(wait_s)
            self._wake.clear()
            if self._is_over:
                return
            try:
                self._look()
            except (*UNAVAILABLE, Retryable) as error:
                wait_s = backoff.next_s(0.0)
                _log.warning("staging could not be looked through: %s", error)
            except Exception:
                wait_s = self._every_s
                _log.exception("staging could not be looked through")
            else:
                wait_s = self._every_s
                backoff.reset()
