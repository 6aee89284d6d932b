"""Launches: facts that all ranks of one launch share and no other launch has.

    launcher                                   shared facts
    torchrun, accelerate, DeepSpeed, srun,     the nearest ancestor that lacks the ranks' variable
    mpirun, jsrun, on one node
    mp.spawn, notebook_launcher, multiprocess. the parent, and the number of the first child
    Lightning's ddp (subprocesses)             the process of rank 0, or the run it has started
    Ray Train                                  job, experiment and trial; the worker group
    srun, mpirun, jsrun on several nodes       cluster, job, array task, step; PMIX_NAMESPACE
    torchrun on several nodes                  its --rdzv-id

A training operator of Kubernetes gives ranks and an address but no name of the launch, and so do
torchrun without --rdzv-id and DeepSpeed on several nodes: there `init` asks for RUNWIRE_RUN_ID.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from runwire.job.ranks import Ranks
from runwire_disk.host import PROC, Launcher, boot_id, find_launcher, pid_namespace, process_start
from runwire_disk.spool.format import Meta

__all__ = ["Facts", "adopted_run", "announce_launch", "attempt_facts", "launch_facts"]

Facts = tuple[str, ...]
# Set by a run that started without ranks, for ranks that its process starts later:
# pid, start time, run id and attempt, in this order.
LAUNCH_VARIABLE: Final = "_RUNWIRE_LAUNCH"  # no setting: children alone read it
_MPI: Final = ("openmpi", "mpich", "jsm")


def launch_facts(
    ranks: Ranks,
    environ: Mapping[str, str],
    *,
    proc: Path = PROC,
    modules: Mapping[str, ModuleType] = sys.modules,
) -> tuple[str, Facts]:
    """Return the source and the facts of this launch; no facts when it cannot be told apart."""
    ray = _ray_facts(modules)
    if ray:
        return "ray", ray
    elastic = environ.get("TORCHELASTIC_RUN_ID", "")
    elastic = "" if elastic == "none" else elastic
    first_child = _first_child(ranks, modules)
    if first_child and elastic:
        return "torchelastic", (elastic,)  # a restart's processes have other numbers
    if ranks.one_node:
        launcher = _launcher_of(ranks, bool(first_child), proc)
        if launcher is not None:
            facts = (boot_id(proc), pid_namespace(proc), str(launcher.pid), launcher.start)
            return "launcher", facts + first_child
    if ranks.launcher in _MPI and environ.get("PMIX_NAMESPACE"):
        return "mpi", (environ["PMIX_NAMESPACE"],)
    job = environ.get("SLURM_JOB_ID", "")
    if job and environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        cluster = environ.get("SLURM_CLUSTER_NAME", "")
        array = environ.get("SLURM_ARRAY_JOB_ID", "")
        task = environ.get("SLURM_ARRAY_TASK_ID", "")
        # torchrun is one srun step on every node, or plain ssh without a step: both agree.
        step = environ.get("SLURM_STEP_ID", "")
        return "slurm", (cluster, f"{array}_{task}" if array else job, step)
    return ("torchelastic", (elastic,)) if elastic else ("", ())


def attempt_facts(modules: Mapping[str, ModuleType] = sys.modules) -> Facts:
    """Return facts that change when the ranks of one launch are started again."""
    group = _call(modules.get("ray.util"), "get_current_placement_group")
    return () if group is None else (str(group.id.hex()),)


def adopted_run(
    ranks: Ranks, environ: Mapping[str, str], proc: Path = PROC
) -> tuple[str, str] | None:
    """Return run id and attempt of the process that launched this rank, if it has a run.

    Lightning's rank 0 is the user's own process: it may call `init` before it launches the others.
    """
    parts = environ.get(LAUNCH_VARIABLE, "").split(":", 3)
    if ranks.launcher != "subprocess" or len(parts) != 4:
        return None
    launcher = find_launcher(ranks.marker, proc=proc, itself=True)
    if launcher is None or (str(launcher.pid), launcher.start) != (parts[0], parts[1]):
        return None
    return parts[3], parts[2]


def announce_launch(meta: Meta, ranks: Ranks) -> str:
    """Leave the run's name for ranks that this process may start.

    Returns what to say of a process that may be a rank and does not look like one, else "".
    """
    if ranks.world_size > 1:
        return ""
    start = process_start(os.getpid()) or ""
    os.environ[LAUNCH_VARIABLE] = f"{os.getpid()}:{start}:{meta.attempt}:{meta.run_id}"
    if "torch.distributed" not in sys.modules or not _process_number(sys.modules):
        return ""
    return (
        f"this process was started by multiprocessing and has no rank, so run {meta.run_id} is its "
        "own. If it is a rank of a job, call init after init_process_group(), or set RANK and "
        "WORLD_SIZE before init"
    )


def _launcher_of(ranks: Ranks, is_child: bool, proc: Path) -> Launcher | None:
    if is_child:  # the variables of ranks are set in the child, if at all
        start = process_start(os.getppid(), proc)
        return None if start is None else Launcher(os.getppid(), start)
    return find_launcher(ranks.marker, proc=proc, itself=ranks.launcher == "subprocess")


def _first_child(ranks: Ranks, modules: Mapping[str, ModuleType]) -> Facts:
    """Return the number of the first process of this launch among its parent's children.

    The parent of `mp.spawn` may launch one training after another. It starts the ranks one by one,
    so the number of a child less its rank is the same for all.
    """
    number = _process_number(modules)
    if not number:
        return ()
    rank = ranks.rank if ranks.one_node else ranks.local_rank
    return (*map(str, number[:-1]), f"child {number[-1] - rank}")


def _process_number(modules: Mapping[str, ModuleType]) -> tuple[int, ...]:
    """Return the numbers of a child of multiprocessing, () in any other process."""
    process = modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return ()
    return tuple(getattr(process.current_process(), "_identity", ()))


def _ray_facts(modules: Mapping[str, ModuleType]) -> Facts:
    """Return job, experiment and trial of a Ray Train worker; its launcher, the raylet, stays."""
    ray, train = modules.get("ray"), modules.get("ray.train")
    if ray is None or train is None or not _call(ray, "is_initialized"):
        return ()
    context = _call(train, "get_context")
    names = [_call(context, f"get_{what}") for what in ("experiment_name", "trial_id")]
    job = _call(_call(ray, "get_runtime_context"), "get_job_id")
    known = [str(name) for name in names if name]
    return (str(job), *known) if job and known else ()


def _call(owner: Any, name: str) -> Any:
    """Return what a function of Ray returns, None where this version or process has no answer."""
    try:
        return getattr(owner, name)()
    except Exception:  # outside of a worker every release raises another error
        return None
