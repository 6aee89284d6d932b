"""Environment of a run at its start: cheap facts only, secrets masked."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from runwire.safe_text import redact_argv
from runwire_disk.host import hostname

__all__ = ["environment_facts", "git_facts"]

# Longest that a slow network file system may delay `init`.
GIT_TIMEOUT_S = 1.0
# Variables worth keeping; the whole environment is never recorded.
_LAUNCHER_NAMES = (
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_PARTITION",
    "SLURM_CLUSTER_NAME",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_STEP_ID",
    "SLURM_NNODES",
    "SLURM_NTASKS",
    "SLURM_JOB_NODELIST",
    "SLURM_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "CUDA_VISIBLE_DEVICES",
    "PYTHONHASHSEED",
)
VALUE_CHARS_MAX = 4_000


def environment_facts(
    *,
    git: bool = True,
    environ: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> dict[str, str]:
    """Return facts about the process of a run, for its readers.

    Blocks: up to GIT_TIMEOUT_S for the dirty state of a git work tree, else well under 1 ms.
    """
    environ = os.environ if environ is None else environ
    folder = _cwd() if cwd is None else os.fspath(cwd)
    system = os.uname()
    facts = {
        "python": sys.version.partition(" ")[0],
        "python_implementation": sys.implementation.name,
        "executable": sys.executable or "",
        "platform": f"{system.sysname} {system.release} {system.machine}",
        "host": hostname(),
        "user": _user(environ),
        "pid": str(os.getpid()),
        "argv": " ".join(redact_argv(sys.argv)),
        "cwd": folder,
        "cpu_count": str(os.cpu_count() or ""),
    }
    facts.update(_framework_facts())
    facts.update({f"env.{n}": environ[n] for n in _LAUNCHER_NAMES if environ.get(n)})
    if git and folder:
        facts.update(git_facts(folder, environ))
    return {key: value[:VALUE_CHARS_MAX] for key, value in facts.items() if value}


def git_facts(cwd: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return commit and branch from the repository's files, and by git whether files changed.

    Blocks: up to GIT_TIMEOUT_S; on a slow file system the dirty state is left out.
    """
    try:
        git_dir = _git_dir(Path(cwd))
        if git_dir is None:
            return {}
        facts = _head(git_dir)
    except (OSError, ValueError):
        return {}
    dirty = _dirty(cwd, os.environ if environ is None else environ)
    if dirty is not None:
        facts["git.dirty"] = "true" if dirty else "false"
    return facts


def _git_dir(folder: Path) -> Path | None:
    for parent in (folder, *folder.parents):
        entry = parent / ".git"
        if entry.is_dir():
            return entry
        if entry.is_file():  # a worktree or submodule points elsewhere
            target = entry.read_text(encoding="utf-8").partition("gitdir:")[2].strip()
            return (parent / target) if target else None
    return None


def _head(git_dir: Path) -> dict[str, str]:
    head = (git_dir / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return {"git.commit": head}
    ref = head[4:].strip()
    facts = {"git.branch": ref.removeprefix("refs/heads/")}
    common = git_dir
    if (git_dir / "commondir").is_file():
        common = git_dir / (git_dir / "commondir").read_text(encoding="utf-8").strip()
    commit = _ref_commit(common, ref)
    return facts | {"git.commit": commit} if commit else facts


def _ref_commit(git_dir: Path, ref: str) -> str:
    try:
        return (git_dir / ref).read_text(encoding="ascii").strip()
    except OSError:
        pass
    try:
        packed = (git_dir / "packed-refs").read_text(encoding="utf-8")
    except OSError:
        return ""
    for line in packed.splitlines():
        commit, _, name = line.partition(" ")
        if name == ref:
            return commit
    return ""


def _dirty(cwd: str, environ: Mapping[str, str]) -> bool | None:
    import subprocess

    clean = {k: v for k, v in environ.items() if not k.startswith("GIT_")}
    # A monitoring tool must not take the index lock during somebody's commit.
    clean["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--ignore-submodules"]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return bool(done.stdout.strip()) if done.returncode == 0 else None


def _framework_facts() -> dict[str, str]:
    """Return versions of frameworks that the trainer has imported; nothing is imported here."""
    facts = {}
    for name in ("torch", "numpy", "jax", "tensorflow", "lightning", "transformers"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            facts[name] = str(version)
    torch_version = getattr(sys.modules.get("torch"), "version", None)
    cuda = getattr(torch_version, "cuda", None)
    return facts | {"cuda": str(cuda)} if cuda else facts


def _cwd() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # the working folder was deleted
        return ""


def _user(environ: Mapping[str, str]) -> str:
    if environ.get("USER"):
        return environ["USER"]
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):  # a container's uid often has no name
        return str(os.getuid())
