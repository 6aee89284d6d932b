"""Messages under way to brokers: so many bytes at a time, and an error when they do not arrive."""

from __future__ import annotations

import time
from collections.abc import Callable

from runwire_agent.ship.broker import (
    AWAY_AFTER_S,
    SILENT,
    SILENT_AFTER_S,
    Broker,
    Failure,
    Message,
)
from runwire_agent.upload.errors import NotNow
from runwire_agent.upload.pace import Pace

__all__ = ["Flight"]

# Enough to keep brokers busy over a network with 100 ms to and fro at 100 MB/s.
IN_FLIGHT_BYTES_MAX = 16 * 1024 * 1024
POLL_S = 0.1


class Flight:
    """What one request has under way; after an error it is over. Threads: one."""

    def __init__(
        self, broker: Broker, pace: Pace, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._broker, self._pace, self._clock = broker, pace, monotonic_s
        self._bytes = 0
        self._arrived = 0  # content bytes acknowledged since the pace was told
        self._failure: Failure | None = None
        self._progress_s = monotonic_s()

    def send(
        self, message: Message, arrived: Callable[[], None] | None = None, *, content_bytes: int = 0
    ) -> None:
        """Send a message; `arrived` is called once brokers have it, and all those before it.

        Blocks: while too much is under way. Raises: NotNow, Stopped.
        """
        size = len(message.value)

        def done(failure: Failure | None) -> None:
            self._bytes -= size
            if failure is not None:
                self._failure = self._failure or failure
            elif self._failure is None:
                self._progress_s = self._clock()
                self._arrived += content_bytes
                if arrived is not None:
                    arrived()

        while self._bytes and self._bytes + size > IN_FLIGHT_BYTES_MAX:
            self._serve()
        self._bytes += size
        while not self._broker.produce(message, done):
            self._serve()
        self._raise()

    def drain(self) -> None:
        """Wait until everything has arrived. Blocks: so long. Raises: NotNow, Stopped."""
        while self._bytes:
            self._serve()
        self._raise()

    def _serve(self) -> None:
        self._broker.poll(POLL_S)
        arrived, self._arrived = self._arrived, 0
        self._pace.moved(arrived)
        self._raise()
        trouble = self._broker.trouble
        quiet_s = self._clock() - self._progress_s
        if trouble is not None and quiet_s >= AWAY_AFTER_S:
            raise NotNow(trouble.kind, trouble.sentence)
        if quiet_s >= SILENT_AFTER_S:
            raise NotNow(
                SILENT,
                f"no broker has acknowledged a piece for {SILENT_AFTER_S:g} s; check that the "
                "topic chunk has enough replicas in sync",
            )

    def _raise(self) -> None:
        if self._failure is not None:
            raise NotNow(self._failure.kind, self._failure.sentence)
