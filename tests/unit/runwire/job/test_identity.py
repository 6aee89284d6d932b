"""Ranks, run ids and attempts: equal on all ranks of a job, different between jobs."""

import os
from pathlib import Path

import pytest

from runwire.errors import ConfigError
from runwire.job.identity import Identity, detect_ranks, identify, validate_project, validate_run_id
from runwire_disk.host import boot_id, find_launcher, process_start
from support.processes import Processes


def torchrun(rank: int = 0, size: int = 4, **more: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        **more,
    }


def slurm(rank: int = 0, size: int = 4, **more: str) -> dict[str, str]:
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_NTASKS": str(size),
        "SLURM_LOCALID": str(rank % 2),
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NAME": "train",
        "SLURM_CLUSTER_NAME": "c1",
        **more,
    }


def jobs_of(tmp_path: Path, environs: list[dict[str, str]], *, start: int = 5) -> list[Identity]:
    """One identity per rank, all children of one launcher (the parent of this very process)."""
    processes = Processes(tmp_path / f"proc{start}")
    processes.add(os.getppid(), 1, start=start)
    return [identify("p", environ=env, proc=processes.root) for env in environs]


def test_single_process_gets_a_random_id_and_attempt() -> None:
    """Two starts of a single process differ in both."""
    one, other = identify("p", environ={}), identify("p", environ={})
    assert one.run_id != other.run_id
    assert one.attempt != other.attempt
    assert (one.ranks.rank, one.ranks.world_size) == (0, 1)


def test_all_ranks_of_a_node_agree_without_talking(tmp_path: Path) -> None:
    """Run id and attempt are equal on all ranks, ranks differ."""
    found = jobs_of(tmp_path, [torchrun(r) for r in range(4)])
    assert len({i.run_id for i in found}) == len({i.attempt for i in found}) == 1
    assert [i.ranks.rank for i in found] == [0, 1, 2, 3]
    assert found[0].source == "launcher"


def test_elastic_restart_keeps_the_run_and_changes_the_attempt(tmp_path: Path) -> None:
    """A restart count belongs to the attempt only."""
    first, second = jobs_of(tmp_path, [torchrun(), torchrun(TORCHELASTIC_RESTART_COUNT="1")])
    assert first.run_id == second.run_id
    assert first.attempt != second.attempt


def test_a_reused_pid_is_another_job(tmp_path: Path) -> None:
    """Two launches with the same launcher pid differ by its start time."""
    first = jobs_of(tmp_path, [torchrun()], start=5)[0]
    second = jobs_of(tmp_path, [torchrun()], start=6)[0]
    assert first.run_id != second.run_id


def test_the_second_run_of_a_job_is_its_own(tmp_path: Path) -> None:
    """init, finish, init in every rank gives two runs on which all ranks agree."""
    first = identify("p", environ=torchrun(0), nth=0)
    later = [identify("p", environ=torchrun(r), nth=1) for r in range(2)]
    assert later[0].run_id == later[1].run_id != first.run_id


def test_slurm_job_id_names_a_job_over_several_nodes() -> None:
    """All ranks derive one run id from it; other jobs, clusters, steps and array tasks differ."""
    found = [identify("p", environ=slurm(r)) for r in range(4)]
    assert len({(i.run_id, i.attempt) for i in found}) == 1
    assert found[0].source == "slurm"
    again = identify("p", environ=slurm(SLURM_RESTART_COUNT="1"))
    assert again.run_id == found[0].run_id
    assert again.attempt != found[0].attempt
    others = [
        slurm(SLURM_JOB_ID="78"),
        slurm(SLURM_CLUSTER_NAME="c2"),
        slurm(SLURM_STEP_ID="1"),
        slurm(SLURM_ARRAY_JOB_ID="70", SLURM_ARRAY_TASK_ID="1"),
    ]
    ids = {identify("p", environ=env).run_id for env in others}
    assert len(ids | {found[0].run_id}) == 5


def test_torchrun_wins_over_the_batch_scripts_slurm_rank() -> None:
    """Under sbatch every torchrun worker inherits SLURM_PROCID=0: RANK must win."""
    ranks = detect_ranks(slurm(0, 2) | torchrun(3))
    assert (ranks.rank, ranks.world_size, ranks.launcher) == (3, 4, "torchrun")


@pytest.mark.parametrize(
    "more",
    [
        {"SLURM_JOB_NAME": "bash"},
        {"SLURM_JOB_NAME": "interactive"},
        {"SLURM_STEP_ID": "", "SLURM_TASK_PID": "1"},
    ],
)
def test_a_shell_in_an_allocation_is_a_single_process(more: dict[str, str]) -> None:
    """Interactive shells and the batch script carry task variables and are no task."""
    environ = {k: v for k, v in slurm(**more).items() if v}
    assert detect_ranks(environ, pid=42).world_size == 1


def test_slurm_step_counts_its_own_tasks() -> None:
    """A step may have fewer tasks than its allocation."""
    assert detect_ranks(slurm(1, 8, SLURM_STEP_NUM_TASKS="2")).world_size == 2


def test_mpi_variables_give_the_rank() -> None:
    """The variables of Open MPI are read like those of torchrun."""
    environ = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    assert detect_ranks(environ).rank == 1


def test_torchelastic_id_names_a_job_without_slurm() -> None:
    """A rendezvous id gives all nodes one run id."""
    two_nodes = {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "exp-1"}
    found = [identify("p", environ=torchrun(r) | two_nodes) for r in range(2)]
    assert found[0].run_id == found[1].run_id
    assert found[0].source == "torchelastic"


def test_several_nodes_without_a_name_are_refused() -> None:
    """A guessed id would split one run into one per node."""
    environ = torchrun() | {"LOCAL_WORLD_SIZE": "2"}
    with pytest.raises(ConfigError, match="Set RUNWIRE_RUN_ID"):
        identify("p", environ=environ)
    explicit = [identify("p", "mine", environ=environ | {"RANK": str(r)}) for r in range(2)]
    assert {i.run_id for i in explicit} == {"mine"}
    assert len({i.attempt for i in explicit}) == 1


@pytest.mark.parametrize("environ", [{"RANK": "4"}, {"RANK": "-1"}, {"RANK": "x"}])
def test_contradicting_ranks_are_refused(environ: dict[str, str]) -> None:
    """The error names the variable RANK."""
    with pytest.raises(ConfigError, match="RANK="):
        detect_ranks(torchrun() | environ)


def test_wrappers_between_launcher_and_rank_are_passed_over(tmp_path: Path) -> None:
    """`torchrun --no-python bash -c ...`: each rank has a shell of its own as parent."""
    processes = Processes(tmp_path)
    processes.add(10, 1, start=50, env="PATH=/bin")
    for rank, shell, pid in ((0, 20, 30), (1, 21, 31)):
        processes.add(shell, 10, env=f"RANK={rank} X=1")
        processes.add(pid, shell, env=f"RANK={rank}")
    found = [find_launcher("RANK", pid=pid, proc=tmp_path) for pid in (30, 31)]
    assert found[0] == found[1]
    assert found[0] is not None
    assert (found[0].pid, found[0].start) == (10, "50")


def test_an_unreadable_ancestor_is_the_launcher(tmp_path: Path) -> None:
    """slurmstepd runs as root: its environment is closed to us."""
    processes = Processes(tmp_path)
    processes.add(10, 1, env=None)
    processes.add(20, 10, env="SLURM_PROCID=0")
    launcher = find_launcher("SLURM_PROCID", pid=20, proc=tmp_path)
    assert launcher is not None
    assert launcher.pid == 10


def test_host_facts_are_read_from_proc() -> None:
    """Boot id, pid namespace and process start of this host are available."""
    assert boot_id()
    assert process_start(os.getpid()) == process_start(os.getpid()) is not None
    assert process_start(2**30) is None


@pytest.mark.parametrize("value", ["", "  ", "x" * 201, "a\nb", "a\0b", " a", "a\u2028b", 5, None])
def test_unusable_ids_are_refused(value: object) -> None:
    """Empty, overlong and unprintable ids raise ConfigError."""
    for validate in (validate_run_id, validate_project):
        with pytest.raises(ConfigError):
            validate(value)


@pytest.mark.parametrize("value", ["run-1", "a/b", "Größe 7", "実験", "x" * 200])
def test_printable_ids_pass_unchanged(value: str) -> None:
    """An id of printable characters is used as it is."""
    assert validate_run_id(value) == validate_project(value) == value
