"""Starting the agent from a trainer: cheap, silent, and never the trainer's child."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runwire.settings import Settings
from runwire_disk.agents.lock import ACQUIRE_S, AgentLock, node_lock
from runwire_disk.spool.format import LOCAL

if TYPE_CHECKING:
    from runwire_agent.agent import Agent
    from runwire_disk.agents.state import AgentState

__all__ = ["agent_environment", "ensure_agent", "is_unfit"]

_log = logging.getLogger("runwire")
SUCCEED_S = 10.0  # for an agent that ends to close its client
# Facts of one rank, or of the trainer's interpreter, are wrong for the agent.
_DROPPED_PREFIXES = (
    *("TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_", "SLURM_STEP", "SLURM_TASK"),
    # Set again below, as the trainer's settings resolved them.
    "RUNWIRE_KAFKA_",
    "RUNWIRE_S3_",
)
_DROPPED_NAMES = frozenset(
    {
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "ROLE_RANK",
        "ROLE_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "RUNWIRE_RUN_ID",
        "_RUNWIRE_LAUNCH",
        "PYTHONINSPECT",
        "PYTHONSTARTUP",
        "PYTHONWARNINGS",
        "PYTHONTRACEMALLOC",
        "PYTHONPROFILEIMPORTTIME",
    }
)
_threads: list[Agent] = []
THREAD_END_S = 6.0  # the agent's own deadline and a little


def ensure_agent(root: Path, settings: Settings) -> None:
    """Start an agent for `root` unless one runs. Call it after the writer's folder exists.

    Never raises: a trainer without an agent trains, its end is recorded by the next agent.
    """
    try:
        if settings.agent == "none" or settings.mode == "disabled":
            return
        kafka = settings.kafka
        destination = LOCAL if kafka is None else kafka.destination
        lock = node_lock(root, destination)
        is_held = lock.held()
        if is_held and not _ends_unfit(lock, settings):
            return
        if settings.agent == "thread":
            _start_thread(root, settings)
        else:
            from runwire_disk.agents.start import start_agent

            wait_s = SUCCEED_S if is_held else ACQUIRE_S
            start_agent(root, agent_environment(os.environ, settings), wait_s=wait_s)
    except Exception as error:
        _log.warning(
            "runwire: no agent could be started for %s: %s: %s. Logging works; heartbeats and the "
            "record of a killed trainer wait for the next agent (`runwire agent --dir %s`).",
            root,
            type(error).__name__,
            error,
            root,
        )


def _ends_unfit(lock: AgentLock, settings: Settings) -> bool:
    """End an agent whose credentials are refused: its successor gets those of this trainer.

    Another password is no other destination, so the agent would keep the lock for hours.
    """
    from runwire_disk.agents.state import STATE_SUFFIX, read_state

    state = read_state(lock.path.with_suffix(STATE_SUFFIX))
    if state is None or state.mode != "process" or not is_unfit(state, settings):
        return False
    if state.pid != lock.holder():
        return False  # a newer one has taken over
    os.kill(state.pid, signal.SIGTERM)
    return True


def is_unfit(state: AgentState, settings: Settings) -> bool:
    """Whether brokers or the store refuse it, or it lacks the keys of this trainer's store."""
    from runwire_agent.ship.broker import AUTHENTICATION

    if state.cause == AUTHENTICATION:
        return True
    s3 = settings.s3
    if s3 is None or not state.uploads:
        return False
    from runwire_agent.upload.direct import settings_of
    from runwire_agent.upload.transport import STORE_REFUSED

    has_keys = state.uploads.get("store") == s3.public() or settings_of(s3.public(), None)
    return state.uploads.get("cause") == STORE_REFUSED or not has_keys


def agent_environment(
    environ: Mapping[str, str], settings: Settings | None = None
) -> dict[str, str]:
    """Return the trainer's environment without its rank, with its destination as resolved."""
    clean = {
        name: value
        for name, value in environ.items()
        if name not in _DROPPED_NAMES and not name.startswith(_DROPPED_PREFIXES)
    }
    if settings is not None:
        kafka, s3 = settings.kafka, settings.s3
        clean |= {} if kafka is None else kafka.environment()
        clean |= {} if s3 is None else s3.environment()
        clean["RUNWIRE_AGENT_STAY_S"] = f"{settings.agent_stay_s:g}"
        if settings.schema_registry_url:
            clean["RUNWIRE_SCHEMA_REGISTRY_URL"] = settings.schema_registry_url
    return clean


def _start_thread(root: Path, settings: Settings) -> None:
    from runwire_agent.agent import run_in_thread

    agent = run_in_thread(root, settings)
    if agent is not None:
        _threads.append(agent)


def _end_threads() -> None:
    """Let agents in this process deliver the end of its runs. Blocks: one deadline for all."""
    for agent in _threads:
        agent.stop.set()
    deadline_s = time.monotonic() + THREAD_END_S
    for agent in _threads:
        agent.ended.wait(max(0.0, deadline_s - time.monotonic()))


# Registered before any run registers its own end, and so called after it.
atexit.register(_end_threads)
