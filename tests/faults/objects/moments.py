"""Moments to kill: right after progress, or at any time; and whether the kill hit anything."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from faults.kafka.pipeline import WorkerProcess
from faults.objects.observer import BLIND
from faults.objects.plain import PlainStore
from faults.objects.rig import Rig

_LOOK_S = 0.01
# A process needs about a second to start; a transfer of 200 MB takes one to four.
_PATIENCE_S = 6.0
_ANY_TIME_S = 3.0
_AFTER_S = 0.8


class Moments:
    """Random moments of transfers, from what can be seen of them from outside."""

    def __init__(self, rig: Rig, store: PlainStore, rng: random.Random) -> None:
        self._rig, self._store, self._rng = rig, store, rng
        self.kills = self.amid = 0

    def kill(self, victim: WorkerProcess) -> None:
        """Wait for a moment and kill; one that ended before in order counts as no kill."""
        self.wait(lambda: victim.is_running)
        amid = self.is_amid()
        victim.process.kill()
        victim.process.wait()
        if victim.process.returncode == 0:
            return
        self.kills += 1
        self.amid += amid

    def is_amid(self) -> bool:
        """Whether something is on its way now: a call, an upload, or a piece in Kafka."""
        rig = self._rig
        in_call = any(len(ledger.read_bytes().splitlines()) % 2 for ledger in rig.ledgers()[-1:])
        return in_call or bool(rig.outbox()) or (rig.route == "kafka" and rig.lag() != 0)

    def wait(self, is_running: Callable[[], bool]) -> None:
        """Wait until something moved and a while longer, or just for a while."""
        if self._rng.random() < 0.25:
            time.sleep(self._rng.uniform(0.0, _ANY_TIME_S))
            return
        before, end_s = self._traces(), time.monotonic() + _PATIENCE_S
        while self._traces() == before and time.monotonic() < end_s and is_running():
            time.sleep(_LOOK_S)
        time.sleep(self._rng.uniform(0.0, _AFTER_S))

    def _traces(self) -> tuple[object, ...]:
        try:
            keys, unfinished = len(self._store.sizes()), len(self._store.unfinished())
        except BLIND:
            keys = unfinished = -1
        sent = self._rig.sent() if self._rig.route == "kafka" else 0
        noted = sum(ledger.stat().st_size for ledger in self._rig.ledgers())
        return keys, unfinished, sent, noted, len(self._rig.outbox())
