"""The uploading half inside an agent: a thread of its own, so that nothing else waits for it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import Broker
from runwire_agent.ship.schema_ids import value_of
from runwire_agent.state import StateFile
from runwire_agent.upload.chunks import KafkaTransport
from runwire_agent.upload.direct import DirectTransport, Stores
from runwire_agent.upload.transport import Pace, Stopped, Transport
from runwire_agent.upload.uploader import Uploader
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import Requests
from runwire_disk.outbox.route import DIRECT, KAFKA
from runwire_disk.spool.destination import LOCAL
from runwire_disk.spool.format import SpoolError
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings

__all__ = ["Uploading", "routes_of"]

_log = logging.getLogger("runwire.agent")
LOOK_S = 0.5
RECORD_S = 5.0  # before an event is offered again to a full disk
ERROR_S = 5.0  # after a mistake of ours in the thread
# Behind the trainers, who may want every core; far from the lowest, which a busy node starves.
NICE = 10


class Uploading:
    """Ships the outbox of one destination. Threads: `tick` and the rest belong to the agent's."""

    def __init__(
        self,
        root: Path,
        kafka: KafkaSettings | None,
        own: OwnSpool,
        *,
        routes: Callable[[Pace], Mapping[str, Transport]],
        s3: S3Settings | None = None,
        takes_offline: bool = False,
        is_behind: Callable[[], bool] | None = None,
        is_nice: bool = True,
    ) -> None:
        self._destination = LOCAL if kafka is None else kafka.destination
        self._takes_offline, self._is_nice = takes_offline, is_nice
        self._own = own
        self._store = {} if s3 is None else s3.public()
        self._stop, self._wake = threading.Event(), threading.Event()
        pace = Pace(self._stop, is_behind)
        self.uploader = Uploader(Requests(root, self._accepts), routes(pace), pace)
        self.progress_s = time.monotonic()
        self._record_at_s = 0.0
        self._seen = (-1, -1, -1)
        self._cause: str | None = None
        self._thread = threading.Thread(target=self._run, name="runwire-uploads", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        self._thread.start()

    def tick(self) -> None:
        """Record what became of artifacts; note progress."""
        if time.monotonic() >= self._record_at_s:
            self.uploader.settle(self._record)
        self._wake.set()
        now = self.uploader.report()
        seen = (now["bytes_read"], now["shipped"], now["failed"])
        if seen != self._seen:
            self._seen, self.progress_s = seen, time.monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits that this agent could ship."""
        return self.uploader.is_settled and not self.uploader.waiting()

    def may_end(self, busy_at_s: float, now_s: float, stay_s: float) -> bool:
        """Whether an agent without trainers has nothing left to ship, or no hope to do it."""
        if self.is_idle:
            return True
        if now_s - max(busy_at_s, self.progress_s) < stay_s:
            return False
        _log.warning(
            "leaving %d artifacts in the outbox: no progress for %g s. The next agent or "
            "`runwire sync` ships them",
            len(self.uploader.waiting()),
            stay_s,
        )
        return True

    def tell(self, state: StateFile) -> None:
        """Put into the agent's state how uploads fare."""
        now = self.uploader.report() | {"store": self._store}
        is_news, self._cause = now["cause"] != self._cause, now["cause"]
        state.update(at_once=is_news, uploads=now)

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
                _log.exception("the uploads go on after a mistake of runwire's; please report it")
                self._stop.wait(ERROR_S)
            self._wake.wait(LOOK_S)
            self._wake.clear()

    def _accepts(self, request: UploadRequest) -> bool:
        if request.destination != self._destination:
            return False
        # What goes to the folder store of this machine leaves it not, also when offline.
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
        _log.warning("what became of an artifact cannot be recorded yet: %s", why)
        self._record_at_s = time.monotonic() + RECORD_S
        return False


def routes_of(
    root: Path,
    kafka: KafkaSettings | None,
    s3: S3Settings | None,
    *,
    registry_url: str | None = None,
    new_broker: Callable[[], Broker] | None = None,
) -> Callable[[Pace], Mapping[str, Transport]]:
    """Return what makes the routes that an agent with these settings has."""

    def content_broker() -> Broker:
        from runwire_agent.ship.kafka import CONTENT, KafkaBroker

        assert kafka is not None
        return KafkaBroker(kafka, CONTENT)

    def made(pace: Pace) -> Mapping[str, Transport]:
        routes: dict[str, Transport] = {DIRECT: DirectTransport(Stores(root, s3), pace)}
        if kafka is not None:
            value = value_of(registry_url, kafka.topic_prefix)
            routes[KAFKA] = KafkaTransport(new_broker or content_broker, pace, value_of=value)
        return routes

    return made


def _be_nice() -> None:
    """Let trainers go first: on Linux a thread, and those that it starts, have their own rank."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
