"""Demo of `make demo`: install, start the embedded stack, train, show the run, stop.

It writes only to two folders of the checkout, which git ignores: `.venv-demo` (the virtual
environment) and `.demo` (the spool, the database and the picture). Starting it needs only the
standard library. Ctrl-C at any time stops the trainer, shows the interrupted run and stops the
stack; a second Ctrl-C skips showing the run.

With --kafka the agent ships the spool to a real broker, from which the worker reads.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-demo"
DATA = ROOT / ".demo"
PICTURE = DATA / "curve.png"
BEST = DATA / "best"
SERVERS = [sys.executable, "deploy/native/servers.py"]
ARRIVAL_S = 30.0
AGENT_LEAVES_S = 20.0
# An interrupted trainer finishes its step and the run, which takes far less.
STOP_S = 20.0

SIZES = """\
  torch               2 to 3 GB on Linux x86-64, where it brings CUDA libraries; less elsewhere
  ClickHouse engine   about 180 MB (the chdb-core wheel)
  everything else     about 150 MB (pyarrow, pandas, numpy, matplotlib, ...)
Installed, that is 1 GB, and 5 GB more when torch is downloaded."""
KEPT_SQL = (
    "SELECT countIf(state = 'complete') AS complete, countIf(state = 'pending') AS pending "
    "FROM v_checkpoints WHERE run_id = '{run}'"
)
ARRIVED_SQL = (
    "SELECT sum(accepted) AS accepted, sum(pending) AS pending "
    "FROM v_completeness WHERE run_id = '{run}'"
)
CURVE_SQL = (
    "SELECT intDiv(step, {width}) * {width} AS from_step, round(avg(value), 3) AS train_loss, "
    "count() AS steps FROM v_series WHERE run_id = '{run}' AND metric = 'train/loss' "
    "GROUP BY from_step ORDER BY from_step"
)


def say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def raise_interrupt(signum: int, frame: object) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


def environment(run_id: str) -> dict[str, str]:
    """Return this process's environment with the demo's settings and no other runwire ones."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("RUNWIRE_") or key == "RUNWIRE_SERVERS_DIR"
    }
    path = f"{VENV / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept | {"RUNWIRE_DIR": str(DATA), "RUNWIRE_RUN_ID": run_id, "PATH": path}


def run(command: list[str], env: dict[str, str] | None = None) -> int:
    """Run one command to its end; on an interrupt, send it SIGINT and give it time to finish.

    The command has its own process group, so a terminal's Ctrl-C reaches only this process, which
    then sends exactly one SIGINT. A second Ctrl-C kills the command.
    """
    process = subprocess.Popen(command, cwd=ROOT, env=env, process_group=0)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=STOP_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
        raise


def quoted(argument: str) -> str:
    """Quote for a shell; SQL contains single quotes, so it gets double ones."""
    return f'"{argument}"' if "'" in argument else shlex.quote(argument)


def step(title: str, command: list[str], env: dict[str, str]) -> int:
    say(title)
    print("$ " + " ".join([Path(command[0]).name, *map(quoted, command[1:])]), flush=True)
    return run(command, env)


def find_torch() -> str | None:
    """Return the folder from which this interpreter would import torch, without importing it."""
    code = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    origin = found.stdout.strip()
    return str(Path(origin).parents[1]) if origin else None


def install() -> None:
    """Create `.venv-demo` with runwire and torch; a second call only checks it."""
    torch_folder = find_torch()
    python = VENV / "bin" / "python"
    stamp = VENV / ".installed"
    wanted = (ROOT / "pyproject.toml").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        say(f"using {VENV.name} of an earlier demo (delete it to install again)")
        return
    say("installing into .venv-demo")
    print(f"This downloads, once:\n{SIZES}")
    if torch_folder:
        print(f"torch is not downloaded: {torch_folder} has one, which is used.")
    print("Press Ctrl-C to stop; `make demo` continues the installation later.", flush=True)
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        sys.exit(
            "error: this Python cannot create virtual environments with pip (module ensurepip is "
            "missing).\nOn Debian and Ubuntu: sudo apt install python3-venv, then `make demo`."
        )
    venv.create(VENV, with_pip=True, symlinks=True)
    if torch_folder:
        for site in VENV.glob("lib/python*/site-packages"):
            (site / "torch-from-outside.pth").write_text(torch_folder + "\n")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    pip += ["--progress-bar", "off"] if not sys.stdout.isatty() else []
    if not torch_folder:
        check(run([*pip, "torch"]), "pip install torch")
    check(run([*pip, "--editable", ".[embedded,query]"]), "pip install runwire")
    stamp.write_text(wanted)


def check(code: int, what: str) -> None:
    if code:
        sys.exit(f"error: `{what}` failed with exit code {code}; its message is above.")


def wait_until_stored(env: dict[str, str], run_id: str, limit_s: float) -> bool:
    """Wait until every accepted point is stored; return whether any point was accepted."""
    end = time.monotonic() + limit_s
    accepted = 0
    while time.monotonic() < end:
        row = query_row(env, ARRIVED_SQL.format(run=run_id))
        accepted = row.get("accepted", 0)
        if accepted and not row["pending"]:
            return True
        time.sleep(0.5)
    if accepted:
        print(f"note: points are still pending after {limit_s:.0f} s; `runwire status` shows why.")
    return accepted > 0


def show(env: dict[str, str], run_id: str, minutes: float, *, interrupted: bool) -> None:
    if not wait_until_stored(env, run_id, 5.0 if interrupted else ARRIVAL_S) and interrupted:
        print("nothing to show: the run had not started yet")
        return
    command = ["runwire", "show", run_id, "--plot", str(PICTURE.relative_to(ROOT))]
    check(step("the run", command, env), "runwire show")
    width = 250 if minutes >= 1 else 50
    sql = CURVE_SQL.format(run=run_id, width=width)
    check(step("the same run in SQL", ["runwire", "sql", sql], env), "runwire sql")
    print(f"\nlearning curves: {PICTURE.relative_to(ROOT)}")


def show_best(env: dict[str, str], run_id: str) -> None:
    """List and verify the checkpoints, download the best one and sample text from it."""
    end = time.monotonic() + ARRIVAL_S
    while (row := query_row(env, KEPT_SQL.format(run=run_id))).get("pending") or not row:
        if time.monotonic() > end:
            print(
                f"note: checkpoints are still pending after {ARRIVAL_S:.0f} s; "
                "`runwire status` shows why."
            )
            break
        time.sleep(0.5)
    if not row.get("complete"):
        return
    command = ["runwire", "checkpoints", run_id, "--project", "demo"]
    check(step("the checkpoints of the run", command, env), "runwire checkpoints")
    check(
        step("verifying every byte of them", [*command, "--verify"], env),
        "runwire checkpoints --verify",
    )
    shutil.rmtree(BEST, ignore_errors=True)
    command += ["--download", "best", "-o", str(BEST.relative_to(ROOT))]
    check(step("downloading the best one", command, env), "runwire checkpoints --download")
    writer = [str(VENV / "bin" / "python"), "examples/char_gpt.py", "--sample", command[-1]]
    check(step("text sampled from it", writer, env), "char_gpt.py --sample")


def query_row(env: dict[str, str], sql: str) -> dict[str, Any]:
    """Return the row of a query; empty if the stack does not answer."""
    command = ["runwire", "sql", "--format", "json", sql]
    answer = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    rows = json.loads(answer.stdout) if answer.returncode == 0 else []
    return {key: int(value or 0) for key, value in rows[0].items()} if rows else {}


def start_broker(env: dict[str, str]) -> dict[str, str]:
    """Start a Kafka broker and return an environment with its address."""
    check(step("starting a Kafka broker", [*SERVERS, "start", "kafka"], env), "servers start")
    status = subprocess.run(
        [*SERVERS, "status"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = (row for row in status.stdout.splitlines() if row.startswith("kafka "))
    return env | {"RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": line.split()[3]}


def stop(env: dict[str, str]) -> int:
    """Stop the stack; Ctrl-C is ignored meanwhile."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = step("stopping the stack", ["runwire", "down"], env)
    end = time.monotonic() + AGENT_LEAVES_S
    while agent_lives(env) and time.monotonic() < end:
        time.sleep(0.5)
    if "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS" in env:
        code = step("stopping the broker", [*SERVERS, "stop", "kafka"], env) or code
    return code


def agent_lives(env: dict[str, str]) -> bool:
    """Return whether an agent is alive; it exits some seconds after the last trainer."""
    command = ["runwire", "status", "--json"]
    answer = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return answer.returncode == 0 and bool(json.loads(answer.stdout)["agent"]["alive"])


def train_and_show(env: dict[str, str], run_id: str, minutes: float) -> bool:
    """Train, then show the run; return whether training was interrupted."""
    trainer = [str(VENV / "bin" / "python"), "examples/char_gpt.py", "--minutes", str(minutes)]
    interrupted = False
    try:
        title = f"training for {minutes:g} minutes (importing torch takes a moment)"
        check(step(title, [*trainer, "--name", "char-gpt"], env), "char_gpt.py")
    except KeyboardInterrupt:
        interrupted = True
        say("interrupted; the recorded part of the run follows (Ctrl-C again to skip)")
    try:
        show(env, run_id, minutes, interrupted=interrupted)
        show_best(env, run_id)
    except KeyboardInterrupt:
        interrupted = True
    return interrupted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to train")
    parser.add_argument("--kafka", action="store_true", help="ship through a real Kafka broker")
    options = parser.parse_args()
    minutes = options.minutes
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"error: runwire runs on Python 3.11 to 3.13; this is {sys.version.split()[0]}.")
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, raise_interrupt)
    run_id = time.strftime("demo-%Y%m%d-%H%M%S")
    env = environment(run_id)
    os.environ["PATH"] = env["PATH"]  # to find `runwire`
    interrupted, started = False, False
    try:
        install()
        started = True
        if options.kafka:
            env = start_broker(env)
        check(step("starting the embedded stack", ["runwire", "up"], env), "runwire up")
        if options.kafka:
            check(step("creating the topics", ["runwire", "migrate"], env), "runwire migrate")
        interrupted = train_and_show(env, run_id, minutes)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if started:
            stop(env)
    if interrupted:
        print("\nstopped; `make demo` starts again and reuses what is installed")
        return 130
    print("\nlook again:  .venv-demo/bin/runwire up --dir .demo")
    print(f"             .venv-demo/bin/runwire show {run_id} --dir .demo")
    return 0


if __name__ == "__main__":
    sys.exit(main())
