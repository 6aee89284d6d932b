"""Concurrent calls on one store, whose requests run one by one in a chosen order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from runwire_store import store as stores
from runwire_store.memory import MemoryObjectStore

Choose = Callable[[list[int]], int]
"""Chooses among the calls that wait with a request the one that runs next."""


class Turns:
    """Lets the threads of several calls use the store one request at a time."""

    def __init__(self, choose: Choose, count: int) -> None:
        self._choose_one = choose
        self._condition = threading.Condition()
        self._waiting: set[int] = set()
        self._running = count
        self._next: int | None = None

    def __call__(self, verb: str, key: str) -> None:
        me = int(threading.current_thread().name)
        with self._condition:
            self._waiting.add(me)
            self._choose()
            self._condition.wait_for(lambda: self._next == me)
            self._waiting.discard(me)
            self._next = None

    def done(self) -> None:
        with self._condition:
            self._running -= 1
            self._choose()

    def _choose(self) -> None:
        if self._next is None and self._waiting and len(self._waiting) >= self._running:
            self._next = self._choose_one(sorted(self._waiting))
            self._condition.notify_all()


def by_seed(seed: int) -> Choose:
    """Random orders: some switch often, some rarely, since races need either."""
    chance = random.Random(seed)
    stay = chance.choice([0.0, 0.6, 0.9])
    last: list[int] = []

    def choose(waiting: list[int]) -> int:
        if not (last and last[0] in waiting and chance.random() < stay):
            last[:] = [chance.choice(waiting)]
        return last[0]

    return choose


def switching(first: int, second: int) -> Choose:
    """Call 0 runs `first` requests, then call 1 `second`, then 0 to its end, then 1."""
    order = [0] * first + [1] * second
    made: list[int] = []

    def choose(waiting: list[int]) -> int:
        wanted = order[len(made)] if len(made) < len(order) else 0
        made.append(wanted)
        return wanted if wanted in waiting else waiting[0]

    return choose


def at_the_same_time(
    store: MemoryObjectStore, calls: Sequence[Callable[[], Any]], choose: Choose
) -> list[Any]:
    """Run the calls and return their results or exceptions."""
    results: list[Any] = [None] * len(calls)
    turns = Turns(choose, len(calls))
    store.trouble = turns

    def run(index: int) -> None:
        try:
            results[index] = calls[index]()
        except Exception as error:
            results[index] = error
        finally:
            turns.done()

    threads = [
        threading.Thread(target=run, args=(index,), name=str(index)) for index in range(len(calls))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "PARALLEL_CALLS", 1)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    store.trouble = None
    return results
