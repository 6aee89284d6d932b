"""Promises of every duty of the agent: progress, patience, deadlines, and forks that touch nothing.

A new duty adds its rig here.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from runwire_agent.duty import Duty, MemoryDuty, Stay
from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import UNREACHABLE, Failure, MemoryCluster
from runwire_agent.ship.duty import ShipDuty, make_shipper
from runwire_agent.upload.duty import UploadDuty
from runwire_agent.watch.duty import WatchDuty
from runwire_agent.watch.trainers import AgentPlace
from runwire_disk.agents.state import AgentState
from runwire_disk.spool.format import ENDED_FILE
from runwire_disk.spool.reader import list_folders, read_meta
from support.node import Polling, node_settings
from support.shipping import KAFKA, kafka_writer
from support.spools import metric_log
from support.uploads import leave
from support.watched import close_writers, trainer, wait_until

PATIENCE_S = 30.0


class Rig(ABC):
    """One kind of duty on a data root, and something for it to do."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stay = Stay(idle_s=0.0)
        self.duties: list[Duty] = []

    def start(self) -> Duty:
        """The duty of another agent process of the same root."""
        self.duties.append(self.make())
        return self.duties[-1]

    @abstractmethod
    def make(self) -> Duty: ...

    @abstractmethod
    def give_work(self) -> None: ...

    @abstractmethod
    def is_done(self) -> bool:
        """Whether the work given so far is done."""

    @abstractmethod
    def block(self) -> bool:
        """Let work fail from now on, for a cause that may pass; false where nothing can."""

    @abstractmethod
    def unblock(self) -> None: ...

    def close(self) -> None:
        for duty in self.duties:
            duty.end(time.monotonic() + PATIENCE_S)


class MemoryRig(Rig):
    jobs: list[str]

    def make(self) -> MemoryDuty:
        self.duty = MemoryDuty(self.stay)
        self.duty.waiting = self.jobs = getattr(self, "jobs", [])
        return self.duty

    def give_work(self) -> None:
        self.jobs.append("job")

    def is_done(self) -> bool:
        return not self.jobs

    def block(self) -> bool:
        self.duty.is_blocked = True
        return True

    def unblock(self) -> None:
        self.duty.is_blocked = False


class WatchRig(Rig):
    def make(self) -> WatchDuty:
        self.own = OwnSpool(self.root, None)
        return WatchDuty(AgentPlace(self.root), self.own, self.stay)

    def give_work(self) -> None:
        trainer(self.root, ends="dies")

    def is_done(self) -> bool:
        trainers = [f for f in list_folders(self.root) if read_meta(f).role == "trainer"]
        return all((folder / ENDED_FILE).exists() for folder in trainers)

    def block(self) -> bool:
        return False

    def unblock(self) -> None: ...

    def close(self) -> None:
        super().close()
        self.own.close()
        close_writers()


class ShipRig(Rig):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.cluster = MemoryCluster()

    def make(self) -> ShipDuty:
        settings = node_settings(self.root, KAFKA)
        shipper = make_shipper(settings, KAFKA, lambda *_: True, lambda: Polling(self.cluster))
        return ShipDuty(shipper, OwnSpool(self.root, KAFKA), self.stay)

    def give_work(self) -> None:
        writer = kafka_writer(self.root)
        metric_log(writer).log({"a": 1.0})
        writer.close()

    def is_done(self) -> bool:
        return not list_folders(self.root)

    def block(self) -> bool:
        self.cluster.away = Failure(UNREACHABLE, "no broker answers")
        return True

    def unblock(self) -> None:
        self.cluster.away = None


class UploadRig(Rig):
    def make(self) -> UploadDuty:
        own = OwnSpool(self.root, None)
        return UploadDuty(node_settings(self.root), own, self.stay, is_nice=False)

    def give_work(self) -> None:
        leave(self.root)

    def is_done(self) -> bool:
        outbox = self.root / "outbox"
        return not outbox.exists() or not list(outbox.iterdir())

    def block(self) -> bool:
        (self.root / "objects").write_text("in the way")
        return True

    def unblock(self) -> None:
        (self.root / "objects").unlink()


@pytest.fixture(params=[MemoryRig, WatchRig, ShipRig, UploadRig], ids=lambda rig: rig.__name__)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made: Rig = request.param(tmp_path)
    yield made
    made.close()


def work(duty: Duty, until: Callable[[], bool]) -> None:
    """Drive a duty as the agent's loop does."""

    def is_true() -> bool:
        duty.tick(time.monotonic())
        duty.rest(time.monotonic() + 0.02, threading.Event())
        return until()

    wait_until(is_true)


def test_duty_without_work_may_end_at_once(rig: Rig) -> None:
    """An agent that was started for nothing does not stay."""
    duty = rig.start()
    work(duty, lambda: duty.may_end(time.monotonic()))


def test_duty_does_its_work_by_ticks_and_rests_alone(rig: Rig) -> None:
    """The loop calls nothing else while trainers live."""
    duty = rig.start()
    rig.give_work()
    work(duty, rig.is_done)
    work(duty, lambda: duty.may_end(time.monotonic()))


def test_work_that_comes_later_is_done_too(rig: Rig) -> None:
    """A duty that was idle is not finished."""
    duty = rig.start()
    work(duty, lambda: duty.may_end(time.monotonic()))
    rig.give_work()
    work(duty, rig.is_done)


def test_blocked_duty_may_end_only_when_the_stay_is_over(rig: Rig) -> None:
    """It waits for brokers and stores to come back, but not for ever."""
    duty = rig.start()
    if not rig.block():  # such a duty never keeps an agent
        rig.give_work()
        assert duty.may_end(time.monotonic())
        return
    rig.give_work()
    work(duty, lambda: not duty.may_end(time.monotonic()))
    rig.stay.stay_s = 0.0
    work(duty, lambda: duty.may_end(time.monotonic()))
    assert not rig.is_done()


def test_work_that_one_agent_leaves_is_done_by_the_next(rig: Rig) -> None:
    """`end` returns by its deadline and keeps on disk all that it could not do."""
    duty = rig.start()
    is_blocked = rig.block()
    rig.give_work()
    duty.tick(time.monotonic())
    begin_s = time.monotonic()
    duty.end(begin_s + 0.5)
    assert time.monotonic() - begin_s < PATIENCE_S / 2
    rig.duties.remove(duty)
    if is_blocked:
        assert not rig.is_done()
        rig.unblock()
    work(rig.start(), rig.is_done)


def test_rest_returns_when_the_time_is_over_or_stop_is_set(rig: Rig) -> None:
    """A signal ends the agent within a moment, whatever a duty uses the idle time for."""
    duty = rig.start()
    begin_s = time.monotonic()
    duty.rest(begin_s + 0.1, threading.Event())
    stop = threading.Event()
    stop.set()
    duty.rest(begin_s + PATIENCE_S, stop)
    assert time.monotonic() - begin_s < PATIENCE_S / 2


def test_facts_are_fields_of_the_agent_s_state(rig: Rig) -> None:
    """So the agent can write them for `runwire status` without knowing the duty."""
    duty = rig.start()
    duty.tick(time.monotonic())
    assert set(duty.facts()) <= {field.name for field in fields(AgentState)}


def test_abandoned_duty_leaves_the_work_to_the_parent(rig: Rig) -> None:
    """In a forked child nothing is delivered, deleted or closed on the parent's behalf."""
    parent, child = rig.start(), rig.start()
    child.abandon()
    rig.duties.remove(child)
    rig.give_work()
    assert not rig.is_done()
    work(parent, rig.is_done)


def test_only_a_living_trainer_makes_a_duty_needed(rig: Rig) -> None:
    """Work on disk can wait for the next agent; a trainer that nobody watches cannot."""
    duty = rig.start()
    rig.give_work()
    assert not duty.is_needed()
