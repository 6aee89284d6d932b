"""One launch is one run with its ranks: a test for every launcher that people use."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import resource_tracker
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import runwire
from runwire.errors import ConfigError
from runwire.job.identity import Identity, identify
from runwire.job.launches import attempt_facts, launch_facts
from runwire.job.ranks import detect_ranks
from support.processes import Processes

pytestmark = pytest.mark.process
TORCHRUN = {
    "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0", "MASTER_ADDR": "localhost",
}  # fmt: skip
DEEPSPEED = {"WORLD_SIZE": "2", "LOCAL_SIZE": "2", "MASTER_ADDR": "10.0.0.7"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-node1-77@1",
}  # fmt: skip
HYDRA_MPI = {"PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}
SRUN = {
    "SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_ID": "9", "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train",
}  # fmt: skip
RANK_OF = ("RANK", "LOCAL_RANK")


@pytest.mark.parametrize(
    ("shared", "names"),
    [
        pytest.param(TORCHRUN, RANK_OF, id="torchrun and accelerate"),
        pytest.param(DEEPSPEED, RANK_OF, id="deepspeed"),
        pytest.param(OPEN_MPI, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"), id="mpirun"),
        pytest.param(HYDRA_MPI, ("PMI_RANK", "MPI_LOCALRANKID"), id="hydra"),
        pytest.param(SRUN, ("SLURM_PROCID", "SLURM_LOCALID"), id="srun"),
    ],
)
def test_launch_on_one_node_is_one_run_and_the_next_another(
    tmp_path: Path, shared: dict[str, str], names: tuple[str, ...]
) -> None:
    """The launcher's process tells two launches of one shell apart."""

    def launch(start: int) -> list[Identity]:
        processes = Processes(tmp_path / str(start))
        processes.add(os.getppid(), 1, start=start)
        environs = [shared | dict.fromkeys(names, str(rank)) for rank in range(2)]
        return [identify("p", environ=environ, proc=processes.root) for environ in environs]

    first, second = launch(5), launch(6)
    assert [identity.ranks.rank for identity in first] == [0, 1]
    assert len({(identity.run_id, identity.attempt) for identity in first}) == 1
    assert first[0].run_id != second[0].run_id


def _spawned(rank: int, environ: dict[str, str], barrier: Any, answers: Any) -> None:
    os.environ.update(environ, RANK=str(rank), WORLD_SIZE="2")
    barrier.wait()  # as init_process_group does
    identity = identify("p")
    barrier.wait()
    answers.put((rank, identity.run_id, identity.attempt))


def _spawn(method: str, environ: dict[str, str]) -> list[tuple[int, str, str]]:
    """Launch two ranks as `torch.multiprocessing.spawn` does."""
    context = multiprocessing.get_context(method)
    answers, barrier = context.SimpleQueue(), context.Barrier(2)
    children = [
        context.Process(target=_spawned, args=(rank, environ, barrier, answers))  # type: ignore[attr-defined]
        for rank in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return sorted(answers.get() for _ in children)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_spawns_of_one_parent_are_two_runs(method: str) -> None:
    """mp.spawn, notebook_launcher, Lightning's ddp_spawn: the parent outlives a launch.

    With the address in the environment, and with one that only `init_process_group` knows.
    """
    first, second = _spawn(method, {}), _spawn(method, {"MASTER_ADDR": "127.0.0.1"})
    if method == "spawn":
        resource_tracker._resource_tracker._stop()  # noqa: SLF001 - no public call ends it
    assert [rank for rank, _, _ in first] == [0, 1]
    for launch in (first, second):
        assert len({(run_id, attempt) for _, run_id, attempt in launch}) == 1
    assert first[0][1] != second[0][1]
    assert first[0][2] != second[0][2]


def test_restart_of_an_elastic_function_launch_keeps_the_run() -> None:
    """notebook_launcher starts other processes for a restart, but names the launch."""
    elastic = {"TORCHELASTIC_RUN_ID": "6f1c"}
    first = _spawn("fork", {**elastic, "TORCHELASTIC_RESTART_COUNT": "0"})
    again = _spawn("fork", {**elastic, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert first[0][1] == again[0][1]
    assert first[0][2] != again[0][2]


LIGHTNING = """
import os, subprocess, sys
import runwire
if sys.argv[1] == "top":
    run = runwire.init("p")
if "LOCAL_RANK" not in os.environ:
    os.environ.update(MASTER_ADDR="127.0.0.1", NODE_RANK="0", LOCAL_RANK="0", WORLD_SIZE="2")
    child = subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, "LOCAL_RANK": "1"})
else:
    child = None
if sys.argv[1] == "inside":
    run = runwire.init("p")
run.log({"loss": 1.0})
run.finish()
sys.exit(child.wait() if child else 0)
"""


@pytest.mark.parametrize("where", ["top", "inside"])
def test_subprocess_launch_of_lightning_is_one_run(tmp_path: Path, where: str) -> None:
    """`init` at the top of the script, before the others are launched, or inside the Trainer."""
    script = tmp_path / "train.py"
    script.write_text(LIGHTNING)
    environ = os.environ | {"RUNWIRE_DIR": str(tmp_path / "data"), "RUNWIRE_CAPTURE_GIT": "0"}
    command = [sys.executable, str(script), where]
    for _ in range(2):
        subprocess.run(command, env=environ, check=True, cwd=tmp_path)
    metas = [json.loads(path.read_text()) for path in tmp_path.glob("data/spool/*/meta.json")]
    ranks: dict[str, list[int]] = {}
    for meta in metas:
        ranks.setdefault(f"{meta['run_id']} {meta['attempt']}", []).append(meta["rank"])
    assert sorted(map(sorted, ranks.values())) == [[0, 1], [0, 1]]


def test_plain_subprocess_of_a_run_is_a_run_of_its_own(tmp_path: Path) -> None:
    """The name that a run leaves for ranks is nothing to other children."""
    code = "import runwire; runwire.init('p').finish()"
    script = (
        "import subprocess, sys, runwire\n"
        "runwire.init('p')\n"
        f"subprocess.run([sys.executable, '-c', {code!r}], check=True)\n"
    )
    environ = os.environ | {"RUNWIRE_DIR": str(tmp_path), "RUNWIRE_CAPTURE_GIT": "0"}
    subprocess.run([sys.executable, "-c", script], env=environ, check=True)
    metas = [json.loads(path.read_text()) for path in tmp_path.glob("spool/*/meta.json")]
    assert len({meta["run_id"] for meta in metas}) == 2


def ray_worker(job: str, experiment: str, group: str) -> Mapping[str, ModuleType]:
    """Stand-ins for Ray's modules, as a worker of Ray Train sees them."""
    context = SimpleNamespace(get_experiment_name=lambda: experiment)
    runtime = SimpleNamespace(get_job_id=lambda: job)
    placement = SimpleNamespace(id=SimpleNamespace(hex=lambda: group))
    modules: dict[str, Any] = {
        "ray": SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: runtime),
        "ray.train": SimpleNamespace(get_context=lambda: context),
        "ray.util": SimpleNamespace(get_current_placement_group=lambda: placement),
    }
    return modules


def test_ray_jobs_of_one_raylet_are_told_apart() -> None:
    """Two fit() of one cluster differ by job or experiment, a restarted group by its placement."""
    ranks = detect_ranks({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    workers = [
        ray_worker("job1", "TorchTrainer_1", "g1"),
        ray_worker("job1", "TorchTrainer_2", "g2"),
        ray_worker("job2", "TorchTrainer_1", "g3"),
    ]
    facts = [launch_facts(ranks, {}, modules=modules) for modules in workers]
    assert {source for source, _ in facts} == {"ray"}
    assert len(set(facts)) == 3
    assert launch_facts(ranks, {}, modules=workers[0]) == facts[0]
    restarted = ray_worker("job1", "TorchTrainer_1", "g9")
    assert launch_facts(ranks, {}, modules=restarted) == facts[0]
    assert attempt_facts(restarted) != attempt_facts(workers[0])


def test_mpirun_inside_slurm_takes_the_ranks_of_mpi() -> None:
    """mpirun starts its daemons by srun; their SLURM_PROCID is not that of a rank."""
    daemon = {
        "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "9",
        "SLURM_NNODES": "2", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
        "PMIX_NAMESPACE": "prterun-node1-77@1",
    }  # fmt: skip
    jobs = [
        identify("p", environ={**daemon, "OMPI_COMM_WORLD_RANK": str(rank), "SLURM_STEP_ID": step})
        for rank, step in ((0, ""), (5, "0"))
    ]
    assert [(job.ranks.rank, job.ranks.world_size) for job in jobs] == [(0, 8), (5, 8)]
    assert jobs[0].run_id == jobs[1].run_id
    assert jobs[0].source == "mpi"


def test_torchrun_in_a_pod_with_a_rank_finds_torchrun(tmp_path: Path) -> None:
    """Training operators give the pod RANK and WORLD_SIZE before torchrun gives its own."""
    processes = Processes(tmp_path)
    processes.add(1, 0, start=3, env="RANK=0 WORLD_SIZE=1")
    processes.add(os.getppid(), 1, start=7, env="RANK=0 WORLD_SIZE=1")
    ranks = [TORCHRUN | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    jobs = [identify("p", environ=environ, proc=tmp_path) for environ in ranks]
    assert jobs[0].source == "launcher"
    assert jobs[0].run_id == jobs[1].run_id


@pytest.mark.parametrize("address", ["job-master-0", "localhost"])
def test_pods_of_a_training_operator_are_asked_for_an_id(tmp_path: Path, address: str) -> None:
    """They have ranks and an address, but nothing that names this launch and no other."""
    processes = Processes(tmp_path)
    processes.add(os.getppid(), 0, env="RANK=0 WORLD_SIZE=2")
    environ = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": address}
    with pytest.raises(ConfigError, match="Kubernetes manifest"):
        identify("p", environ=environ, proc=tmp_path)


def test_rank_of_a_further_node_without_a_group_is_asked_for(tmp_path: Path) -> None:
    """Lightning on several nodes: the size of a node is not known before the group exists."""
    environ = {"NODE_RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1"}
    with pytest.raises(ConfigError, match="after the process group is initialised"):
        identify("p", environ=environ, proc=tmp_path)


def _start_without_a_rank(root: str) -> None:
    sys.modules["torch.distributed"] = ModuleType("torch.distributed")
    runwire.init("p", dir=root).finish()


def test_child_without_a_rank_is_told_how_to_have_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """mp.spawn gives the rank as an argument: before the group exists nobody else knows it."""
    child = multiprocessing.get_context("fork").Process(
        target=_start_without_a_rank, args=(str(tmp_path),)
    )
    child.start()
    child.join()
    assert "call init after init_process_group()" in capfd.readouterr().err
