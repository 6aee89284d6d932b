"""The state file of an agent: beside its lock, for `runwire status` and for the next `init`."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from runwire_agent.prometheus import write_metrics
from runwire_disk.agents.state import STATE_SUFFIX, AgentState, write_state
from runwire_disk.spool.format import LOCAL
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["StateFile"]

_log = logging.getLogger("runwire.agent")
# Between two writes: of an unchanged state, and of one that changes all the time.
STATE_S, CHANGED_S = 5.0, 1.0


class StateFile:
    """The state of one agent, which its duties fill. Threads: one."""

    def __init__(self, lock: Path, kafka: KafkaSettings | None, *, mode: str = "process") -> None:
        self._path = lock.with_suffix(STATE_SUFFIX)
        self._state = AgentState(
            key=LOCAL if kafka is None else kafka.destination,
            destination={} if kafka is None else kafka.public(),
            pid=os.getpid(),
            mode=mode,
        )
        self._written, self._written_s = self._state, float("-inf")

    def update(self, *, at_once: bool = False, **facts: Any) -> None:
        """Change facts of the state; write a new cause at once, anything else soon."""
        self._state = replace(self._state, **facts)
        now_s = time.monotonic()
        is_news = _causes(self._state) != _causes(self._written)
        within_s = STATE_S if self._state == self._written else CHANGED_S
        if not (at_once or is_news) and now_s - self._written_s < within_s:
            return
        self._written, self._written_s = self._state, now_s
        now = replace(self._state, at_ns=time.time_ns())
        write_metrics(self._path, now)
        try:
            write_state(self._path, now)
        except OSError as error:
            _log.debug("the state cannot be written: %s", error)


def _causes(state: AgentState) -> list[Any]:
    """Return what `runwire status` shows as the reason to wait."""
    return [state.cause, state.sentence, state.uploads.get("cause", "")]
