"""The agent's loop: when it runs its duties, when it stays, and what it holds meanwhile."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from runwire_agent.agent import Agent
from runwire_agent.duty import Duty, MemoryDuty, Stay
from runwire_agent.own_spool import OwnSpool
from runwire_agent.state import StateFile
from runwire_disk.agents.lock import AgentLock, node_lock
from runwire_disk.agents.state import read_states


class Counting(MemoryDuty):
    """Counts its ticks, and runs what a test wants to happen at one of them."""

    def __init__(self, stay: Stay) -> None:
        super().__init__(stay)
        self.ticks: list[bool] = []
        self.flushes = 0

    def tick(self, now_s: float, *, is_last: bool = False) -> None:
        super().tick(now_s, is_last=is_last)
        self.ticks.append(is_last)

    def flush(self, deadline_s: float) -> bool:
        self.flushes += 1
        return super().flush(deadline_s)


def agent(root: Path, duties: Sequence[Duty], stay: Stay) -> Agent:
    lock = node_lock(root)
    assert lock.acquire()
    state, own = StateFile(lock.path, None), OwnSpool(root, None)
    return Agent(lock, state, own, duties, stay=stay, scan_s=0.01)


def test_agent_ends_when_idle_and_all_work_is_done(tmp_path: Path) -> None:
    """Jobs first; then duties are ended, the state is written and the lock is free."""
    stay = Stay(idle_s=0.0)
    duty = MemoryDuty(stay)
    duty.waiting += ["a", "b", "c"]
    made = agent(tmp_path, [duty], stay)
    made.run()
    assert (duty.done, duty.is_ended) == (["a", "b", "c"], True)
    assert made.ended.is_set()
    assert not made.lock.held()
    (state,) = read_states(tmp_path).values()
    assert state.delivered == 3


def test_agent_gives_blocked_work_up_when_its_stay_is_over(tmp_path: Path) -> None:
    """One duty without hope does not keep it for ever, and its work is still there."""
    stay = Stay(idle_s=0.0, stay_s=0.2)
    blocked, done = MemoryDuty(stay), MemoryDuty(stay)
    blocked.waiting.append("a")
    blocked.is_blocked = True
    agent(tmp_path, [blocked, done], stay).run()
    assert blocked.waiting == ["a"]
    assert blocked.is_ended
    assert done.is_ended


def test_agent_stays_for_a_trainer_that_comes_while_it_leaves(tmp_path: Path) -> None:
    """The trainer saw the lock held and started no agent: the leaving one must see the trainer."""

    class Late(Counting):
        def is_needed(self) -> bool:
            self.has_trainer = self.flushes == 1
            return self.has_trainer

        def tick(self, now_s: float, *, is_last: bool = False) -> None:
            assert AgentLock(node_lock(tmp_path).path).held()
            super().tick(now_s, is_last=is_last)
            self.has_trainer = False

    stay = Stay(idle_s=0.0)
    duty = Late(stay)
    agent(tmp_path, [duty], stay).run()
    assert duty.flushes == 3, "two attempts to leave, and the end"
    assert len(duty.ticks) >= 2


def test_a_stopped_agent_ticks_once_more_with_is_last(tmp_path: Path) -> None:
    """Duties write their latest counts before an agent ends on a signal."""
    stay = Stay()
    duty = Counting(stay)
    made = agent(tmp_path, [duty], stay)
    made.stop.set()
    made.run()
    assert duty.ticks == [True]
    assert duty.is_ended


def test_agent_ends_when_its_lock_file_is_deleted(tmp_path: Path) -> None:
    """Another agent may hold a new file by then: this one makes no last tick."""
    stay = Stay()

    class Deletes(Counting):
        def tick(self, now_s: float, *, is_last: bool = False) -> None:
            super().tick(now_s, is_last=is_last)
            node_lock(tmp_path).path.unlink(missing_ok=True)

    duty = Deletes(stay)
    agent(tmp_path, [duty], stay).run()
    assert duty.ticks == [False]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_lock_and_duties_to_its_parent(tmp_path: Path) -> None:
    """In the thread mode a DataLoader worker inherits the agent: it must not act as one."""
    stay = Stay()
    duty = MemoryDuty(stay)
    made = agent(tmp_path, [duty], stay)
    child = os.fork()
    if child == 0:
        os._exit(0 if made.stop.is_set() and duty.is_ended else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not duty.is_ended
    assert AgentLock(made.lock.path).held()
    made.stop.set()
    made.run()
