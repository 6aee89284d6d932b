"""A seeded sequence of kills against a live stack."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

from support.faults import Stack
from support.harness_worker import POINTS as KILL_POINTS

MODES = ("single", "threads", "forks")
# How often the long form chooses each.
_WEIGHTS = {"trainer": 36, "worker": 18, "engine": 14, **dict.fromkeys(KILL_POINTS, 8)}
_JOURNAL_LOOK_S = 0.0005
_JOURNAL_PATIENCE_S = 3.0


@dataclass
class Campaign:
    """Runs kills one after the other; `kills` counts them by victim."""

    stack: Stack
    rng: random.Random
    modes: tuple[str, ...] = MODES
    kills: Counter[str] = field(default_factory=Counter)

    def run(self, victims: list[str]) -> None:
        """Kill each victim at a random moment and restart it."""
        for victim in victims:
            self.run_one(victim)
        self.finish()

    def run_one(self, victim: str) -> None:
        """Kill one victim under load and restart it."""
        if not self.stack.trainer_runs:
            self.stack.start_trainer(self.rng.choice(self.modes))
        self._kill(victim)

    def finish(self) -> None:
        """Let a trainer end in order and everything arrive."""
        if not self.stack.trainer_runs:
            self.stack.start_trainer(self.rng.choice(self.modes))
            self.stack.wait_for_acks()
        self.stack.finish()

    def _kill(self, victim: str) -> None:
        stack, rng = self.stack, self.rng
        if victim == "trainer":
            if rng.random() < 0.8:  # else it may die before or inside `init`
                stack.wait_for_acks()
            time.sleep(rng.uniform(0.0, 0.5))
            self.kills[stack.kill_trainer_somehow(rng)] += 1
        elif victim == "worker":
            self._wait_for_a_batch(rng.uniform(0.0, 0.06))
            stack.kill_worker()
            self.kills["worker"] += 1
            stack.start_worker()
        elif victim == "engine":
            self._wait_for_a_batch(rng.uniform(0.0, 0.06))
            stack.kill_engine()
            self.kills["engine"] += 1
            stack.start_engine()
        else:
            stack.stop_worker()
            stack.start_worker(f"{victim}:{rng.randint(1, 4)}")
            stack.wait_for_suicide()
            self.kills[f"worker {victim}"] += 1
            stack.start_worker()

    def _wait_for_a_batch(self, after_s: float) -> None:
        """Sleep a random time or, mostly, until the journal got a line: an insert runs then."""
        self.stack.wait_for_acks()
        if self.rng.random() < 0.25:
            time.sleep(self.rng.uniform(0.0, 0.5))
            return
        before = self.stack.journal_bytes()
        end_s = time.monotonic() + _JOURNAL_PATIENCE_S
        while self.stack.journal_bytes() == before and time.monotonic() < end_s:
            time.sleep(_JOURNAL_LOOK_S)
        time.sleep(after_s)


def victims(rng: random.Random, count: int) -> list[str]:
    """A random sequence that has every victim in it when it is long enough."""
    drawn = rng.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()), k=count)
    drawn[: len(_WEIGHTS)] = list(_WEIGHTS)[:count]
    rng.shuffle(drawn)
    return drawn
