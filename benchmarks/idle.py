"""Cost of a stack that nobody uses: engine, worker, supervisor and the agent of an idle trainer.

Minutes may be given as the only argument. Writes are those that reach the disk, rename and journal
of the file system not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

import runwire
from measure import figure, machine

MINUTES = 3.0
# After its start the engine still merges, and closes what it opened.
SETTLE_S = 30.0
BARS = {"engine": "<= 2.5 %", "worker": "<= 1.5 %", "supervisor": "<= 0.5 %", "agent": "<= 0.5 %"}


class Use(NamedTuple):
    """What a process has used so far, and holds now."""

    cpu_s: float
    written_bytes: int
    pss_bytes: int
    rss_bytes: int


def use_of(process: psutil.Process) -> Use:
    """Read it from the kernel."""
    times, memory = process.cpu_times(), process.memory_full_info()
    return Use(times.user + times.system, process.io_counters().write_bytes, memory.pss, memory.rss)


def processes(root: Path) -> dict[str, psutil.Process]:
    """Find the processes of a stack, by its state file and the agent's command line."""
    state = json.loads((root / "embedded" / "stack.json").read_text())
    found = {"supervisor": state["pid"]} | {
        part: state[part]["pid"] for part in ("engine", "worker")
    }
    named = {name: psutil.Process(pid) for name, pid in found.items()}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "runwire_agent" in words and _root_of(process) == str(root):
            named["agent"] = process
    return named


def _root_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RUNWIRE_DIR")
    except psutil.Error:
        return None


def log_bytes(root: Path) -> int:
    """Return the size of all logs."""
    return sum(path.stat().st_size for path in root.rglob("*.log"))


def folder_bytes(folder: Path) -> int:
    """Return what the files of a folder take on disk."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:  # merged away
            continue
    return total


def measure(root: Path, *, seconds: float) -> None:
    """Print a figure for each process, then those of the disk."""
    time.sleep(SETTLE_S)
    parts = processes(root)
    before = {name: use_of(process) for name, process in parts.items()}
    logs, disk, start = log_bytes(root), folder_bytes(root), time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - start
    hours = elapsed / 3600
    for name, process in parts.items():
        now, then = use_of(process), before[name]
        share = (now.cpu_s - then.cpu_s) / elapsed
        per_hour = (now.written_bytes - then.written_bytes) / hours / 2**20
        figure(f"idle {name}, CPU", 100 * share, "%", floor="one core", ratio=share, bar=BARS[name])
        for kind, size in (("PSS", now.pss_bytes), ("RSS", now.rss_bytes)):
            figure(
                f"idle {name}, {kind}", size / 2**20, "MiB", floor="engine",
                ratio=size / use_of(parts["engine"]).rss_bytes,
            )  # fmt: skip
        figure(f"idle {name}, writes", per_hour, "MiB/h", floor="100 MiB/h", ratio=per_hour / 100)
    for name, grown in (("logs", log_bytes(root) - logs), ("disk", folder_bytes(root) - disk)):
        rate = grown / hours / 2**20
        figure(f"idle stack, growth of {name}", rate, "MiB/h", floor="100 MiB/h", ratio=rate / 100)


def main() -> None:
    print(machine())
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RUNWIRE_DIR"] = folder
        command = [sys.executable, "-m", "runwire.cli", "up", "--foreground"]
        up = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not (state := Path(folder, "embedded", "stack.json")).exists() or (
                json.loads(state.read_text())["stage"] != "ready"
            ):
                if up.poll() is not None:
                    raise SystemExit("the stack did not start")
                time.sleep(0.5)
            run = runwire.init("idle", settings=runwire.Settings(capture_git=False))
            run.log({"loss": 1.0})
            measure(Path(folder), seconds=60 * minutes)
            run.finish()
        finally:
            up.terminate()
            up.wait()


if __name__ == "__main__":
    main()
