"""Rank of this process in its job, read from the environment that the launcher set."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from runwire.errors import ConfigError
from runwire_disk.host import count_children

__all__ = ["Ranks", "detect_ranks"]

# (rank, world size, local rank, local world size), by launcher.
# MPI before SLURM: mpirun starts its daemons by srun, and their ranks inherit the daemon's
# SLURM_PROCID.
_ENV_LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "openmpi": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpich": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "jsm": (
        "JSM_NAMESPACE_RANK",
        "JSM_NAMESPACE_SIZE",
        "JSM_NAMESPACE_LOCAL_RANK",
        "JSM_NAMESPACE_LOCAL_SIZE",
    ),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Rank of one process in its job.

    `marker` is a variable that the launcher's children have and the launcher itself does not.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    one_node: bool = True
    launcher: str = "none"
    marker: str = ""


def detect_ranks(environ: Mapping[str, str] | None = None, *, pid: int | None = None) -> Ranks:
    """Return rank and world size, by the first of: torch.distributed, torchrun, SLURM, MPI, single.

    torchrun's RANK wins over SLURM_PROCID: under `sbatch` every worker inherits SLURM_PROCID=0.

    Raises: ConfigError when a launcher's variables contradict each other.
    """
    live = _torch_distributed() if environ is None else None
    environ = os.environ if environ is None else environ
    for launcher, names in _ENV_LAUNCHERS.items():
        rank_name, size_name, local_name, local_size_name = names
        if rank_name not in environ or size_name not in environ:
            continue
        if launcher == "slurm" and not _is_slurm_task(environ, os.getpid() if pid is None else pid):
            continue
        world_size = _int(environ, size_name, 1)
        if launcher == "slurm":
            # NTASKS counts the allocation's tasks; a step may have fewer.
            world_size = _int(environ, "SLURM_STEP_NUM_TASKS", world_size)
        ranks = Ranks(
            rank=_int(environ, rank_name, 0),
            world_size=world_size,
            local_rank=_int(environ, local_name, 0),
            one_node=_is_one_node(
                environ, launcher, local_size_name=local_size_name, world_size=world_size
            ),
            launcher=launcher,
            # A pod of a training operator has RANK before torchrun starts, but no LOCAL_RANK.
            marker=local_name if local_name in environ else rank_name,
        )
        return _check(_with_live(ranks, live), rank_name, size_name)
    if "LOCAL_RANK" in environ and "WORLD_SIZE" in environ:
        return _check(_with_live(_local_ranks(environ, live), live), "LOCAL_RANK", "WORLD_SIZE")
    if live is not None:
        one_node = live[1] == 1 or _master_is_local(environ) or _are_siblings(live[1])
        return Ranks(rank=live[0], world_size=live[1], one_node=one_node, launcher="torch")
    return Ranks()


def _local_ranks(environ: Mapping[str, str], live: tuple[int, int] | None) -> Ranks:
    """Return the rank of a process that Lightning's subprocess launcher started: it has no RANK.

    Raises: ConfigError on further nodes before the process group exists.
    """
    node, local = _int(environ, "NODE_RANK", 0), _int(environ, "LOCAL_RANK", 0)
    if node and live is None:
        raise ConfigError(
            f"this process is LOCAL_RANK={local} of NODE_RANK={node}, and its global rank is not "
            "known yet: call init after the process group is initialised, or set RANK"
        )
    return Ranks(
        rank=local,
        world_size=_int(environ, "WORLD_SIZE", 1),
        local_rank=local,
        one_node=not node and _master_is_local(environ),
        launcher="subprocess",
        marker="LOCAL_RANK",
    )


def _with_live(ranks: Ranks, live: tuple[int, int] | None) -> Ranks:
    if live is None or live[1] == 1 < ranks.world_size:
        return ranks
    return replace(ranks, rank=live[0], world_size=live[1])


def _check(ranks: Ranks, rank_name: str, size_name: str) -> Ranks:
    if ranks.world_size < 1 or not 0 <= ranks.rank < ranks.world_size:
        raise ConfigError(
            f"{rank_name}={ranks.rank} does not fit {size_name}={ranks.world_size}: a rank must be "
            "from 0 to world size - 1. Correct the launcher's environment, or unset both for a "
            "single process."
        )
    return ranks


def _is_slurm_task(environ: Mapping[str, str], pid: int) -> bool:
    """Return whether this is a task; a shell in an allocation has the variables but is none."""
    if environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return False
    if "SLURM_STEP_ID" in environ or "SLURM_STEP_NUM_TASKS" in environ:
        return True
    # In the batch script itself SLURM_TASK_PID is the script's shell, an ancestor of ours.
    task_pid = environ.get("SLURM_TASK_PID")
    return task_pid is None or task_pid == str(pid)


def _is_one_node(
    environ: Mapping[str, str], launcher: str, *, local_size_name: str, world_size: int
) -> bool:
    if world_size == 1:
        return True
    if launcher == "slurm":
        nodes = _int(environ, "SLURM_STEP_NUM_NODES", _int(environ, "SLURM_NNODES", 0))
        return nodes == 1
    local_size = _int(environ, local_size_name, _int(environ, "LOCAL_SIZE", 0))  # DeepSpeed's
    if local_size:
        return local_size == world_size
    return _master_is_local(environ) or _are_siblings(world_size)


def _master_is_local(environ: Mapping[str, str]) -> bool:
    """Return whether the rendezvous is on the loopback address, which cannot span nodes."""
    return environ.get("MASTER_ADDR", "") in ("localhost", "127.0.0.1", "::1")


def _are_siblings(world_size: int) -> bool:
    """Return whether this process and all other ranks are children of one multiprocessing parent.

    `mp.spawn` with an `init_method` of its own sets no address in the environment.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return False
    return count_children(os.getppid()) >= world_size


def _int(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"environment variable {name}={text!r} must be a whole number: it is the rank or "
            "size of this process's job. Correct or unset it."
        ) from None


def _torch_distributed() -> tuple[int, int] | None:
    """Return (rank, world size) of an initialised process group; torch is never imported here."""
    dist = sys.modules.get("torch.distributed")
    try:
        if dist is not None and dist.is_available() and dist.is_initialized():
            return int(dist.get_rank()), int(dist.get_world_size())
    except Exception:  # a half-imported or replaced torch has no ranks
        return None
    return None
