"""Starting the agent from a trainer: cheap, silent, and never the trainer's child."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import site
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runwire.settings import Settings
from runwire_disk.agents.lock import ACQUIRE_S, AgentLock, lock_path
from runwire_disk.host import boot_id, pid_namespace
from runwire_disk.paths import agents_dir
from runwire_disk.spool.destination import LOCAL

if TYPE_CHECKING:
    from runwire_agent.agent import Agent
    from runwire_disk.agents.state import AgentState

__all__ = ["agent_environment", "ensure_agent"]

_log = logging.getLogger("runwire")
LOG_BYTES_MAX = 1024 * 1024
IDLE_S = 10.0
SUCCEED_S = 10.0  # for an agent that ends to close its client
# The shell only starts the agent in the background: milliseconds, unless the machine is stuck.
SHELL_TIMEOUT_S = 2.0
# What belongs to one rank or to the trainer's interpreter says nothing true about the agent.
_DROPPED_PREFIXES = (
    *("TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_", "SLURM_STEP", "SLURM_TASK"),
    # Said again below, as the trainer's settings resolved them.
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
    """Have an agent watch `root`. Call it after the writer's folder exists.

    Never raises: a trainer without an agent trains, its end is recorded by the next agent.
    """
    try:
        if settings.agent == "none" or settings.mode == "disabled":
            return
        kafka = settings.kafka
        destination = LOCAL if kafka is None else kafka.destination
        lock = AgentLock(lock_path(root, boot_id(), pid_namespace(), destination))
        is_held = lock.held()
        if is_held and not _ends_unfit(lock, settings):
            return
        if settings.agent == "thread":
            _start_thread(root, settings)
        else:
            _start_process(root, settings, wait_s=SUCCEED_S if is_held else ACQUIRE_S)
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
    """End an agent that cannot log in where this trainer can: its successor gets these settings.

    Another password is no other destination, so the agent would keep the lock for hours.
    """
    from runwire_disk.agents.state import STATE_SUFFIX, read_state

    state = read_state(lock.path.with_suffix(STATE_SUFFIX))
    if state is None or state.mode != "process" or not _is_unfit(state, settings):
        return False
    if str(state.pid) != lock.holder():
        return False  # a newer one has taken over
    os.kill(state.pid, signal.SIGTERM)
    return True


def _is_unfit(state: AgentState, settings: Settings) -> bool:
    """Whether brokers or the store refuse it, or it was not given the keys of our store."""
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
    """The trainer's environment without its rank, with its destination wherever that was set.

    Secrets travel here and never on a command line, which every user of the machine can read.
    """
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
    folders = _import_folders()
    if folders:
        clean["PYTHONPATH"] = os.pathsep.join(filter(None, [clean.get("PYTHONPATH"), *folders]))
    return clean


def _import_folders() -> list[str]:
    """Where our packages lie when an interpreter started elsewhere would not find them."""
    import runwire
    import runwire_schemas

    found = []
    for package in (runwire, runwire_schemas):
        file = package.__file__
        folder = str(Path(file).resolve().parents[1]) if file else ""
        usual = [*site.getsitepackages(), site.getusersitepackages()]
        if folder and folder not in {str(Path(p).resolve()) for p in usual}:
            found.append(folder)
    return found


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


def _start_process(root: Path, settings: Settings, *, wait_s: float) -> None:
    import subprocess

    if not sys.executable:
        raise RuntimeError("this interpreter does not know its own executable")
    command = [
        *(sys.executable, "-m", "runwire_agent"),
        *("--dir", str(root), "--exit-when-idle-s", f"{IDLE_S:g}", "--wait-s", f"{wait_s:g}"),
    ]
    log = _open_log(agents_dir(root))
    try:
        # A shell in between, gone at once: the agent is adopted by init, so that it is no child
        # that os.wait() of a trainer could meet, and no zombie of it.
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=agent_environment(os.environ, settings),
            start_new_session=True,
            timeout=SHELL_TIMEOUT_S,
            check=True,
        )
    finally:
        os.close(log)


def _open_log(folder: Path) -> int:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "agent.log"
    try:
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(folder / "agent.log.1")
    except FileNotFoundError:
        pass
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
