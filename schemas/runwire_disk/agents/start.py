"""The one starter of agent processes: for trainers, and for the embedded stack.

It names the package to run and imports nothing of it.
"""

from __future__ import annotations

import importlib.util
import os
import site
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from runwire_disk.agents.lock import ACQUIRE_S
from runwire_disk.paths import agents_dir

__all__ = ["IDLE_S", "start_agent"]

PACKAGE = "runwire_agent"
IDLE_S = 10.0
LOG_BYTES_MAX = 1024 * 1024
# The shell only starts the agent in the background: milliseconds, unless the machine is stuck.
SHELL_TIMEOUT_S = 2.0
# Every package that an agent imports.
_PACKAGES = (PACKAGE, "runwire_disk", "runwire_store", "runwire_schemas")


def start_agent(
    root: Path, environ: Mapping[str, str], *, idle_s: float = IDLE_S, wait_s: float = ACQUIRE_S
) -> None:
    """Start an agent that ends when idle, or when another one runs; never a child of the caller.

    Secrets travel in `environ` and never on a command line, which every user can read.
    Raises: OSError when it cannot be started. Blocks: for milliseconds.
    """
    _check_interpreter()
    command = [
        *(sys.executable, "-m", PACKAGE),
        *("--dir", str(root), "--exit-when-idle-s", f"{idle_s:g}", "--wait-s", f"{wait_s:g}"),
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
            env=_with_import_folders(environ),
            start_new_session=True,
            timeout=SHELL_TIMEOUT_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise ChildProcessError(f"the shell that starts the agent failed: {error}") from error
    finally:
        os.close(log)


def _check_interpreter() -> None:
    """Raises: ChildProcessError where `sys.executable -m` would not run a module.

    A frozen program (PyInstaller, cx_Freeze, Nuitka) would start itself: another trainer, which
    starts another. uwsgi and other hosts of an interpreter are no interpreter either.
    """
    is_frozen = getattr(sys, "frozen", False) or "__compiled__" in vars(sys.modules["__main__"])
    if is_frozen:
        raise ChildProcessError(
            "this is a frozen program, which cannot run other modules: start `runwire agent` "
            "from an installed runwire, or set RUNWIRE_AGENT=thread"
        )
    if "py" not in Path(sys.executable or "").name.lower():
        raise ChildProcessError(
            f"{sys.executable or 'the executable'!r} is not a Python interpreter: start `runwire "
            "agent` yourself, or set RUNWIRE_AGENT=thread"
        )


def _with_import_folders(environ: Mapping[str, str]) -> dict[str, str]:
    """Add the source roots that an interpreter started elsewhere would not find."""
    usual = {str(Path(p).resolve()) for p in (*site.getsitepackages(), site.getusersitepackages())}
    folders: list[str] = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            continue
        folder = str(Path(spec.origin).resolve().parents[1])
        if folder not in usual and folder not in folders:
            folders.append(folder)
    path = os.pathsep.join(filter(None, [environ.get("PYTHONPATH"), *folders]))
    return {**environ, "PYTHONPATH": path} if path else dict(environ)


def _open_log(folder: Path) -> int:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "agent.log"
    try:
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(folder / "agent.log.1")
    except FileNotFoundError:
        pass
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
