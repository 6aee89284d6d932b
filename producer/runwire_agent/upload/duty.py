"""The upload duty: ships the outbox from a thread of its own, so that nothing else waits for it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runwire_agent.duty import Stay
from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import Broker, schema_ids
from runwire_agent.upload.chunks import KafkaTransport
from runwire_agent.upload.direct import DirectTransport, Stores
from runwire_agent.upload.transport import Pace, Stopped, Transport
from runwire_agent.upload.uploader import Uploader
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import OutboxRequests
from runwire_disk.outbox.route import DIRECT, KAFKA
from runwire_disk.settings import NodeSettings
from runwire_disk.spool.format import LOCAL, SpoolError
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings

__all__ = ["UploadDuty", "make_routes"]

_log = logging.getLogger("runwire.agent")
LOOK_S = 0.5
RECORD_S = 5.0  # before an event is offered again to a full disk
ERROR_S = 5.0  # after a mistake of ours in the thread
# Behind the trainers, who may want every core; far from the lowest, which a busy node starves.
NICE = 10


class UploadDuty:
    """Ships the outbox of the destination that `settings` name.

    Threads: one of its own, started by the first tick.
    """

    def __init__(
        self,
        settings: NodeSettings,
        own: OwnSpool,
        stay: Stay,
        *,
        takes_offline: bool = False,
        is_behind: Callable[[], bool] | None = None,
        is_nice: bool = True,
        new_broker: Callable[[], Broker] | None = None,
    ) -> None:
        kafka, s3 = settings.kafka, settings.s3
        self._own, self._stay = own, stay
        self._destination = LOCAL if kafka is None else kafka.destination
        self._takes_offline, self._is_nice = takes_offline, is_nice
        self._store = {} if s3 is None else s3.public()
        self._stop, self._wake = threading.Event(), threading.Event()
        pace = Pace(self._stop, is_behind)
        registry_url = settings.schema_registry_url
        routes = make_routes(
            pace, settings.root, kafka, s3, registry_url=registry_url, new_broker=new_broker
        )
        self.uploader = Uploader(OutboxRequests(settings.root, self._accepts), routes, pace)
        self._progress_s = time.monotonic()
        self._record_at_s = 0.0
        self._last_counts = (-1, -1, -1)
        self._thread = threading.Thread(target=self._run, name="runwire-uploads", daemon=True)

    def tick(self, now_s: float, *, is_last: bool = False) -> None:
        """Record the outcome of uploads; note progress."""
        if self._thread.ident is None and not is_last:
            self._thread.start()
        if time.monotonic() >= self._record_at_s:
            self.uploader.settle(self._record)
        self._wake.set()
        now = self.uploader.report()
        counts = (now["bytes_read"], now["shipped"], now["failed"])
        if counts != self._last_counts:
            self._last_counts, self._progress_s = counts, time.monotonic()

    def rest(self, until_s: float, stop: threading.Event) -> None:
        """Return at once: uploads have a thread of their own."""

    def facts(self) -> Mapping[str, Any]:
        """Return counts of uploads, and the cause while they wait."""
        return {"uploads": self.uploader.report() | {"store": self._store}}

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits that this agent could ship."""
        return self.uploader.is_settled and not self.uploader.waiting()

    def may_end(self, now_s: float) -> bool:
        """Whether the outbox is empty, or made no progress for the time that an agent stays."""
        if self.is_idle:
            return True
        if not self._stay.is_over(self._progress_s, now_s):
            return False
        _log.warning(
            "leaving %d artifacts in the outbox: no progress for %g s. The next agent or "
            "`runwire sync` ships them",
            len(self.uploader.waiting()),
            self._stay.stay_s,
        )
        return True

    def is_needed(self) -> bool:
        """Return false: requests wait on disk for the next agent."""
        return False

    def flush(self, deadline_s: float) -> bool:
        """Record finished uploads; whether nothing waits. Blocks: not for a transfer."""
        self.uploader.settle(self._record)
        return self.is_idle

    def end(self, deadline_s: float) -> None:
        """Stop between two stretches of transfer; the outbox keeps the rest. Blocks: until then."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline_s - time.monotonic()))
        if self._thread.is_alive():
            _log.warning("ending amid an upload; the outbox keeps it")
        else:
            self.uploader.settle(self._record)
            self.uploader.close()

    def abandon(self) -> None:
        """Leave everything to the parent process, in a forked child of it."""
        self.uploader.abandon()

    def _run(self) -> None:
        if self._is_nice:
            _be_nice()
        while not self._stop.is_set():
            try:
                if self.uploader.work():
                    continue
            except Stopped:
                break
            except Exception:
                _log.exception("uploads continue after a bug in runwire; please report it")
                self._stop.wait(ERROR_S)
            self._wake.wait(LOOK_S)
            self._wake.clear()

    def _accepts(self, request: UploadRequest) -> bool:
        if request.destination != self._destination:
            return False
        # Content for the folder store stays on this machine, so an offline run allows it too.
        stays_here = request.route == DIRECT and not request.store
        return request.mode != "offline" or self._takes_offline or stays_here

    def _record(self, mode: str, fields: Mapping[str, object]) -> bool:
        try:
            writer = self._own.writer(mode)
            if writer.append_json("artifact", fields) >= 0:
                writer.sync()
                return True
            why: object = f"no room in {writer.folder}"
        except (OSError, SpoolError) as error:
            why = error
        _log.warning("the outcome of an upload cannot be recorded yet: %s", why)
        self._record_at_s = time.monotonic() + RECORD_S
        return False


def make_routes(
    pace: Pace,
    root: Path,
    kafka: KafkaSettings | None,
    s3: S3Settings | None,
    *,
    registry_url: str | None = None,
    new_broker: Callable[[], Broker] | None = None,
) -> Mapping[str, Transport]:
    """Return the routes that an agent with these settings has."""

    def content_broker() -> Broker:
        from runwire_agent.ship.kafka import CONTENT, KafkaBroker

        assert kafka is not None
        return KafkaBroker(kafka, CONTENT)

    routes: dict[str, Transport] = {DIRECT: DirectTransport(Stores(root, s3), pace)}
    if kafka is not None:
        value = schema_ids(registry_url, kafka.topic_prefix)
        routes[KAFKA] = KafkaTransport(new_broker or content_broker, pace, value_of=value)
    return routes


def _be_nice() -> None:
    """Let trainers go first: on Linux a thread, and those that it starts, have their own rank."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
