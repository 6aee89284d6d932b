"""Retries with growing waits that signals and the shutdown's deadline can cut short."""

import contextlib
import logging
from collections.abc import Callable
from math import inf
from typing import TypeVar

from runwire_consumers.core.clock import Clock, Deadline
from runwire_consumers.core.errors import Retryable, SkipFlush
from runwire_consumers.core.health import Health, SelfMetrics
from runwire_consumers.core.source import Source


class Stop:
    """A request to end: orderly after the first signal, at once after the second.

    Threads: `signal` runs in the main thread, as signal handlers do, or in a test.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._is_skipped = False

    def signal(self) -> None:
        """Request an orderly end; a second call ends the worker at once.

        Raises: SkipFlush at the second call, whatever the worker is doing; later calls are
        ignored, so that releasing handles is not interrupted.
        """
        if not self.is_requested:
            self.is_requested = True
        elif not self._is_skipped:
            self._is_skipped = True
            raise SkipFlush


class Backoff:
    """Waits that double from `first_s` to `max_s`."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s

    def next_s(self, least_s: float = 0.0) -> float:
        """Return the next wait: at least `least_s`, never above the maximum."""
        wait_s = min(self._max_s, max(least_s, self._next_s))
        self._next_s = min(self._max_s, self._next_s * 2)
        return wait_s

    def reset(self) -> None:
        """Return to the first wait, after a success."""
        self._next_s = self._first_s


T = TypeVar("T")
_log = logging.getLogger("runwire.worker")

SLICE_S = 0.1  # longest time until a waiting worker notices a signal
STOPPING_WAIT_S = 0.5  # a shutdown has little time: try often


class OutOfTime(Exception):  # noqa: N818 - the outcome of a shutdown, not a fault
    """The shutdown deadline passed before the work was done."""


class Patience:
    """Repeats a call that raises Retryable until it works or the shutdown's deadline is over.

    The deadline begins when a stop request is first noticed here, or with `begin_shutdown`.
    """

    def __init__(
        self,
        source: Source,
        *,
        backoff: Backoff,
        clock: Clock,
        stop: Stop,
        shutdown_s: float,
        health: Health,
        metrics: SelfMetrics,
    ) -> None:
        self._source = source
        self._backoff = backoff
        self._clock = clock
        self._stop = stop
        self._shutdown_s = shutdown_s
        self._health = health
        self._metrics = metrics
        self._deadline: Deadline | None = None
        self._reason = ""

    def begin_shutdown(self) -> Deadline:
        """Return the deadline of the shutdown; the first call starts its clock."""
        if self._deadline is None:
            self._deadline = Deadline(self._shutdown_s, clock=self._clock)
        return self._deadline

    def insist(self, action: Callable[[], T], *, within_s: float = inf) -> T:
        """Repeat the action until it works; return its result.

        Blocks: at most `within_s`, and after a stop at most until the deadline.
        Raises: OutOfTime, Retryable after `within_s`, and any other error of the action.
        """
        state = self._health.state
        end_s = self._clock.monotonic_s() + within_s
        while True:
            try:
                result = action()
            except Retryable as error:
                left_s = end_s - self._clock.monotonic_s()
                if left_s <= 0.0:
                    self._recover(state)
                    raise
                self._metrics.add("runwire_worker_retries_total")
                wait_s = self._backoff.next_s(error.after_s)
                self._report(error.reason, wait_s)
                self._wait(min(wait_s, left_s))
            else:
                if self._reason:
                    _log.info("working again after: %s", self._reason)
                    self._recover(state)
                return result

    def _recover(self, state: str) -> None:
        self._reason = self._health.reason = ""
        self._health.state = state
        self._backoff.reset()

    def _report(self, reason: str, wait_s: float) -> None:
        self._health.state, self._health.reason = "retrying", reason
        if reason != self._reason:  # once per cause, not once per try
            _log.warning("%s; trying again in %.1f s, nothing is lost", reason, wait_s)
            self._reason = reason

    def _wait(self, seconds: float) -> None:
        self._source.pause()
        end_s = self._clock.monotonic_s() + seconds
        was_stopping = self._stop.is_requested
        while (left_s := end_s - self._clock.monotonic_s()) > 0:
            if self._stop.is_requested:
                deadline = self.begin_shutdown()
                if deadline.is_over:
                    raise OutOfTime
                if not was_stopping:
                    break  # the stop was requested during this wait: try once at once
                end_s = min(end_s, self._clock.monotonic_s() + min(STOPPING_WAIT_S, left_s))
                left_s = min(left_s, deadline.left_s)
            self._clock.sleep(min(SLICE_S, left_s))
            with contextlib.suppress(Retryable):
                self._source.poll(0.0)  # paused: yields nothing, but stays in the group
        self._source.resume()
