"""Threads beside the worker's loop: they finish artifacts, adopt abandoned ones, and sweep.

Joining gigabytes takes longer than a consumer group waits for a poll. Every waiting artifact is in
staging too, so after a crash `Tending` finds it again and nothing has to be remembered here.
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
from runwire_consumers.objects.staging import Staging
from runwire_store.store import UNAVAILABLE
from runwire_store.sweep import sweep

_log = logging.getLogger("runwire.objects")

# While one joins gigabytes the other one serves small artifacts.
THREADS: Final = 2
_RETRY_FIRST_S, _RETRY_MAX_S = 0.5, 30.0
SWEEP_S: Final = 3600.0
NS: Final = 1_000_000_000


class Finishing:
    """Threads that finish artifacts, retrying until they succeed. Threads: any."""

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
        """Finish the artifact soon if all its pieces are there."""
        with self._changed:
            if artifact in self._at_work:
                self._at_work[artifact] = True  # its last try may have been too early
            elif artifact not in self._waiting:
                self._waiting.append(artifact)
            self._changed.notify_all()
            self._count()

    def is_busy(self) -> bool:
        """Whether an artifact is waiting or in work."""
        with self._changed:
            return bool(self._waiting or self._at_work)

    def close(self, seconds: float) -> None:
        """End after the current artifacts; the rest is found again. Blocks: at most `seconds`."""
        end_s = time.monotonic() + seconds
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _serve(self) -> None:
        while (artifact := self._next()) is not None:
            try:
                self._retry_until_done(artifact)
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

    def _retry_until_done(self, artifact: str) -> None:
        backoff = Backoff(_RETRY_FIRST_S, _RETRY_MAX_S)
        last_error = ""
        while True:
            begin_s = time.monotonic()
            try:
                outcome = self._completion.finish(artifact)
            except (*UNAVAILABLE, Retryable) as error:
                wait_s = backoff.next_s(0.0)
                if str(error) != last_error:
                    last_error = str(error)
                    _log.warning("artifact %s waits: %s", artifact, last_error)
                with self._changed:
                    if self._changed.wait_for(lambda: self._is_over, wait_s):
                        return
            except Exception:
                # The next start or upkeep tries again; other artifacts are finished meanwhile.
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
    """Calls `look` every `every_s` in its own thread, the first time at once."""

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
                _log.warning("upkeep of staging failed: %s", error)
            except Exception:
                wait_s = self._every_s
                _log.exception("upkeep of staging failed")
            else:
                wait_s = self._every_s
                backoff.reset()


class Tending:
    """Adopts artifacts of dead workers, fails overdue ones, and sweeps the store. Threads: one.

    Units: an artifact of another worker is adopted after `look_s` seconds, fails after `staging_s`
    seconds with missing pieces; content without a manifest is swept after `grace_s` seconds.
    """

    def __init__(
        self,
        staging: Staging,
        completion: Completion,
        finish: Callable[[str], None],
        *,
        staging_s: float,
        grace_s: float,
        look_s: float,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._staging, self._completion, self._finish = staging, completion, finish
        self._staging_ns, self._look_ns = int(staging_s * NS), int(look_s * NS)
        self._staging_s, self._grace_s = staging_s, grace_s
        self._sweep_ns = int(min(SWEEP_S, staging_s, grace_s) * NS)
        self._clock_ns = clock_ns
        self._looked, self._swept_ns = False, 0

    def take_over(self) -> None:
        """Adopt all artifacts with the next look: a worker may have died. Threads: any."""
        self._looked = False

    def look(self) -> None:
        """Adopt abandoned artifacts; sweep once an hour. Raises: StoreError, Retryable."""
        takes_all, self._looked = not self._looked, True
        try:
            self._look(takes_all=takes_all)
        except BaseException:
            self._looked = self._looked and not takes_all
            raise

    def _look(self, *, takes_all: bool) -> None:
        now_ns = self._clock_ns()
        for artifact, since_ns in self._staging.shipped().items():
            if since_ns < now_ns - self._staging_ns:
                self._finish_or_fail(artifact)
            elif takes_all or since_ns < now_ns - self._look_ns:
                self._finish(artifact)
        if now_ns - self._swept_ns >= self._sweep_ns:
            self._sweep(now_ns)
            self._swept_ns = now_ns

    def _finish_or_fail(self, artifact: str) -> None:
        if not self._completion.finish(artifact):
            days = self._staging_s / 86_400
            self._completion.fail(
                artifact,
                f"pieces are still missing after {days:.1f} days: log the artifact again",
            )

    def _sweep(self, now_ns: int) -> None:
        report = sweep(
            self._staging.store, grace_s=self._grace_s, staging_s=self._staging_s, now_ns=now_ns
        )
        if report.blobs or report.staging or report.uploads:
            _log.info(
                "swept %d blobs (%d bytes), staging of %d artifacts (%d bytes), %d uploads%s",
                len(report.blobs),
                report.blob_bytes,
                len(report.staging),
                report.staging_bytes,
                report.uploads,
                f"; {report.space_note}" if report.space_note else "",
            )
        for key, reason in report.unreadable.items():
            _log.warning("no content is swept: %s cannot be read: %s", key, reason)
