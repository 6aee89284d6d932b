"""What an agent leaves beside its lock for `runwire status` and for the next `init`."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from runwire_schemas.kafka_settings import KafkaSettings
from runwire_schemas.spool.agent_state import STATE_SUFFIX, AgentState, write_state
from runwire_schemas.spool.destination import LOCAL

__all__ = ["StateFile"]

_log = logging.getLogger("runwire.agent")
STATE_S = 5.0  # between two writes of an unchanged state


class StateFile:
    """The state of one agent, which its parts add to. Threads: one."""

    def __init__(self, lock: Path, kafka: KafkaSettings | None, *, mode: str = "process") -> None:
        self._path = lock.with_suffix(STATE_SUFFIX)
        self._state = AgentState(
            key=LOCAL if kafka is None else kafka.destination,
            destination={} if kafka is None else kafka.public(),
            pid=os.getpid(),
            mode=mode,
        )
        self._written_s = float("-inf")

    def update(self, *, at_once: bool = False, **facts: Any) -> None:
        """Change facts of the state; write it at once, or when the file is old."""
        self._state = replace(self._state, **facts)
        now_s = time.monotonic()
        if not at_once and now_s - self._written_s < STATE_S:
            return
        self._written_s = now_s
        try:
            write_state(self._path, replace(self._state, at_ns=time.time_ns()))
        except OSError as error:
            _log.debug("the state cannot be written: %s", error)
