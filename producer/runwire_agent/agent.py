"""The agent: looks at every trainer's folder, beats for the living, records the dead."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import Broker
from runwire_agent.ship.duty import STAY_S, Delivery
from runwire_agent.state import StateFile
from runwire_agent.upload.duty import Uploading, routes_of
from runwire_agent.watch.endings import end_fields, heartbeat_fields, mark_ended
from runwire_agent.watch.trainers import Folders
from runwire_disk import fork
from runwire_disk.agents.lock import AgentLock, lock_path
from runwire_disk.host import boot_id, hostname, pid_namespace
from runwire_disk.settings import NodeSettings
from runwire_disk.spool.destination import LOCAL
from runwire_disk.spool.format import Meta, SpoolError
from runwire_disk.spool.progress import lifecycle_end, progress
from runwire_disk.spool.reader import writer_alive
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings

__all__ = ["Agent", "agent_of", "run_in_thread"]

_log = logging.getLogger("runwire.agent")
SCAN_INTERVAL_S = 0.5  # a dead trainer is noticed within 2 s: four looks
HEARTBEAT_INTERVAL_S = 5.0
# A folder of another pid namespace is left to that namespace's agent; ask again this often.
FOREIGN_INTERVAL_S = 5.0
FLUSH_S = 5.0  # of an agent that ends: what is not delivered by then waits for the next one


class Agent:
    """Watches the trainers of one data root, boot, pid namespace and destination.

    With a Kafka destination it ships their folders, and its own, as well.
    Threads: one; `stop` and `hurry` may be set from anywhere.
    """

    def __init__(
        self,
        root: Path,
        *,
        exit_when_idle_s: float | None = None,
        kafka: KafkaSettings | None = None,
        stay_s: float = STAY_S,
        registry_url: str | None = None,
        mode: str = "process",
        broker: Broker | None = None,
        s3: S3Settings | None = None,
        new_broker: Callable[[], Broker] | None = None,
    ) -> None:
        self.root = root
        self.stop = threading.Event()
        self.hurry = threading.Event()  # end at once, deliver later
        self.ended = threading.Event()
        self._boot, self._namespace, self._host = boot_id(), pid_namespace(), hostname()
        self._destination = LOCAL if kafka is None else kafka.destination
        self.lock = AgentLock(lock_path(root, self._boot, self._namespace, self._destination))
        self._exit_when_idle_s, self._stay_s = exit_when_idle_s, stay_s
        self._state = StateFile(self.lock.path, kafka, mode=mode)
        self._delivery: Delivery | None = None
        self._new_delivery = kafka is not None and partial(
            Delivery,
            root,
            kafka,
            state=self._state,
            accepts=self._ships,
            stay_s=stay_s,
            registry_url=registry_url,
            broker=broker,
        )
        self._folders = Folders(root, self._destination)
        self._own = OwnSpool(root, kafka)
        self._uploading: Uploading | None = None
        self._new_uploading = partial(
            Uploading,
            root,
            kafka,
            self._own,
            routes=routes_of(root, kafka, s3, registry_url=registry_url, new_broker=new_broker),
            s3=s3,
            is_behind=self._is_behind,
            is_nice=mode == "process",
        )
        self._next_beat_s: dict[Path, float] = {}
        self._retry_at_s: dict[Path, float] = {}
        self._busy_at_s = time.monotonic()
        fork.register(self)

    def run(self) -> None:
        """Watch until `stop` is set, the root is deleted, or nobody lives any more."""
        if self._new_delivery:
            self._delivery = self._new_delivery()
        self._uploading = self._new_uploading()
        self._uploading.start()
        while not self.stop.is_set():
            now_s = time.monotonic()
            self.tick(now_s)
            self._uploading.tick()
            self._uploading.tell(self._state)
            if not self.lock.still_ours():
                _log.warning(
                    "%s was deleted; this agent ends, the next init starts another", self.lock.path
                )
                break
            if self._idle(now_s) and self._may_leave():
                break
            self._rest(now_s + SCAN_INTERVAL_S)
        if self.stop.is_set():
            self._next_beat_s.clear()
            self.tick(time.monotonic())
        self.close()

    def _rest(self, until_s: float) -> None:
        if self._delivery is None:
            self.stop.wait(max(0.0, until_s - time.monotonic()))
        else:
            self._delivery.rest(until_s, self.stop)

    def tick(self, now_s: float) -> None:
        """Look at every unsettled folder once."""
        for folder, meta in self._folders.unsettled().items():
            if now_s < self._retry_at_s.get(folder, now_s):
                continue
            try:
                self._look(folder, meta, now_s)
            except FileNotFoundError:
                continue  # delivered and removed between two looks
            except (OSError, SpoolError, ValueError) as error:
                # Not twice a second: the cause is most likely a full disk.
                self._retry_at_s[folder] = now_s + HEARTBEAT_INTERVAL_S
                _log.warning("cannot record the state of %s: %s", folder, error)

    def close(self) -> None:
        """Close this agent's own spool folders, deliver what is there and free the lock."""
        fork.unregister(self)
        deadline_s = time.monotonic() + (0.0 if self.hurry.is_set() else FLUSH_S)
        if self._uploading is not None:
            self._uploading.end(deadline_s)
            self._uploading.tell(self._state)
            self._uploading = None
        self._own.close()
        if self._delivery is not None:
            self._delivery.end(deadline_s)
            self._delivery = None
        self.lock.release()
        self.ended.set()

    def _look(self, folder: Path, meta: Meta, now_s: float) -> None:
        due = now_s >= self._next_beat_s.get(folder, 0.0)
        same_place = (meta.boot_id, meta.pid_ns) == (self._boot, self._namespace)
        if not same_place and not due:
            return
        # Asked before the records are read: what it wrote before it went is then seen.
        if writer_alive(folder):
            if same_place:
                self._busy_at_s = now_s
            if due:
                self._next_beat_s[folder] = now_s + HEARTBEAT_INTERVAL_S
                if same_place:
                    fields = heartbeat_fields(meta, progress(folder))
                    self._own.writer(meta.mode).append_json("heartbeat", fields)
        elif same_place or self._adopts(meta):
            self._settle(folder, meta)
        else:
            self._next_beat_s[folder] = now_s + FOREIGN_INTERVAL_S

    def _adopts(self, meta: Meta) -> bool:
        """Whether a dead writer of another boot or pid namespace has nobody else to record it."""
        if meta.boot_id != self._boot:
            return meta.host == self._host  # else a shared file system shows us another machine
        return not self._has_agent(meta)

    def _has_agent(self, meta: Meta) -> bool:
        path = lock_path(self.root, meta.boot_id, meta.pid_ns, self._destination)
        return AgentLock(path).held()

    def _ships(self, folder: Path, meta: Meta) -> bool:
        """Whether this agent reads a folder: file locks exclude others on this machine only."""
        if meta.mode == "offline":
            return False  # `runwire sync` does
        if meta.boot_id == self._boot:
            return meta.pid_ns == self._namespace or not self._has_agent(meta)
        return meta.host == self._host and not writer_alive(folder)

    def _settle(self, folder: Path, meta: Meta) -> None:
        finished, next_seq = lifecycle_end(folder)
        if finished:
            reporter, status, reason = "", "finished", "the trainer said so itself"
        else:
            seen = progress(folder)
            writer = self._own.writer(meta.mode)
            if meta.worker_of is not None:
                # A forked worker ends with os._exit as a rule; only its last counts matter.
                writer.append_json("heartbeat", heartbeat_fields(meta, seen, phase="ended"))
                status, reason = "ended", "a worker process of its trainer"
            else:
                fields = end_fields(
                    meta,
                    seen,
                    seq=next_seq,
                    reporter=writer.meta.writer,
                    rebooted=meta.boot_id != self._boot,
                )
                if writer.append_json("run", fields) < 0:
                    return  # no room: keep the folder unsettled and try again
                status, reason = str(fields["status"]), str(fields["status_reason"])
                _log.info("run %s: %s", meta.run_id, reason)
            writer.sync()
            reporter = writer.meta.writer
        mark_ended(folder, reporter=reporter, status=status, reason=reason)
        self._folders.settle(folder)
        self._next_beat_s.pop(folder, None)
        self._retry_at_s.pop(folder, None)

    def _idle(self, now_s: float) -> bool:
        limit_s = self._exit_when_idle_s
        if limit_s is None or now_s - self._busy_at_s < limit_s:
            return False
        uploads = self._uploading
        if uploads is not None and not uploads.may_end(self._busy_at_s, now_s, self._stay_s):
            return False
        return self._delivery is None or self._delivery.may_end(self._busy_at_s, now_s)

    def _is_behind(self) -> bool:
        delivery = self._delivery
        return delivery is not None and delivery.is_behind

    def _may_leave(self) -> bool:
        """Free the lock, then look once more: a trainer that came meanwhile saw it held.

        A trainer makes its folder before it asks for an agent, so one of both sees the other.
        """
        self._own.close()
        if self._delivery is not None:
            self._delivery.flush(time.monotonic() + FLUSH_S)
        self.lock.release()
        self._folders = Folders(self.root, self._destination)
        live = any(
            (meta.boot_id, meta.pid_ns) == (self._boot, self._namespace) and writer_alive(folder)
            for folder, meta in self._folders.unsettled().items()
        )
        if live and self.lock.acquire():
            self._busy_at_s = time.monotonic()
            return False
        return True

    def after_fork_in_child(self) -> None:
        """The lock and the folders are the parent's."""
        self.stop.set()
        self.ended.set()
        self.lock.release()
        self._own.abandon()
        if self._uploading is not None:
            self._uploading.abandon()
            self._uploading = None
        if self._delivery is not None:
            self._delivery.abandon()
            self._delivery = None


def agent_of(
    root: Path,
    settings: NodeSettings,
    *,
    mode: str = "process",
    exit_when_idle_s: float | None = None,
) -> Agent:
    """Return the agent of the destination that `settings` names."""
    return Agent(
        root,
        exit_when_idle_s=exit_when_idle_s,
        kafka=settings.kafka,
        s3=settings.s3,
        stay_s=settings.agent_stay_s,
        registry_url=settings.schema_registry_url,
        mode=mode,
    )


def run_in_thread(root: Path, settings: NodeSettings | None = None) -> Agent | None:
    """Watch from a daemon thread of this process; None when another agent does already.

    The exception to "no thread in the trainer": its own SIGKILL goes unrecorded until the next
    agent looks.
    """
    agent = agent_of(root, settings or NodeSettings(), mode="thread")
    if not agent.lock.acquire(timeout_s=0.0):
        fork.unregister(agent)
        return None
    threading.Thread(target=agent.run, name="runwire-agent", daemon=True).start()
    return agent
