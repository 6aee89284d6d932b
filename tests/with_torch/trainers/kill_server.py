"""Forks trainers that are killed while they save; torch is imported once.

Commands on stdin, each a JSON list, each answered by one JSON line:
["save", root, how]: a child saves step 1, says its pid, waits for a byte on its pipe, saves step 2.
["load", root]: a child loads "latest" and says what it found.
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

import torch

import runwire

MODEL_SEED = 1234


def state(step: int) -> torch.nn.Module:
    """The model as it is at a step, the same in every process."""
    torch.manual_seed(MODEL_SEED + step)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64))


def begin(root: str) -> runwire.Run:
    return runwire.init("kills", run_id="killed", dir=root)


def end_saves() -> None:
    """Wait for the thread of an asynchronous save."""
    for thread in threading.enumerate():
        if thread.name == "runwire-checkpoint":
            thread.join()


def save(root: str, how: dict[str, object], ready: int, go: int) -> None:
    if how.get("retention"):
        how = {"retention": runwire.Retention(keep_last=2, keep_best=1, metric="loss")}
    with begin(root) as run:
        for step in (0, 1):
            run.save_checkpoint(step, model=state(step), metrics={"loss": 1.0 / (step + 1)}, **how)
        model = state(2)
        end_saves()
        os.write(ready, b"%d\n" % os.getpid())
        os.read(go, 1)
        run.save_checkpoint(2, model=model, metrics={"loss": 0.1}, **how)
        end_saves()
        os.write(ready, b"saved\n")


def load(root: str, ready: int) -> None:
    with begin(root) as run:
        model = state(999)
        found = run.load_checkpoint("latest", model=model)
        assert found is not None
        wanted = state(found.step).state_dict()
        same = all(torch.equal(wanted[name], value) for name, value in model.state_dict().items())
        # Whoever died left nothing in the way of the next one.
        saved = run.save_checkpoint(10, model=model)
        assert saved.wait(), saved
        left = [path.name for path in saved.path.parent.glob(".[no]*")]
    answer = {"step": found.step, "same": same, "left": left}
    os.write(ready, json.dumps(answer).encode() + b"\n")


def fork(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work(ready)` in a child; its pid and where its lines come out."""
    out, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        status = 1
        try:
            work(ready)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(ready)
    return pid, out


def killed(root: str, how: dict[str, object]) -> None:
    """Save in a child that the tracer may kill."""
    waits, go = os.pipe()
    pid, out = fork(lambda ready: save(root, how, ready, waits))
    os.close(waits)
    with os.fdopen(out) as lines:
        print(json.dumps(["ready", lines.readline().strip()]), flush=True)
        sys.stdin.readline()  # the tracer holds it now
        os.write(go, b"x")
        os.close(go)
        said = lines.read().strip()
    _, status = os.waitpid(pid, 0)
    print(json.dumps([said, os.waitstatus_to_exitcode(status)]), flush=True)


def loaded(root: str) -> None:
    """Load in a child."""
    pid, out = fork(lambda ready: load(root, ready))
    with os.fdopen(out) as lines:
        said = lines.read()
    _, status = os.waitpid(pid, 0)
    print(said.strip() or json.dumps({"failed": status}), flush=True)


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for line in sys.stdin:
        command, *rest = json.loads(line)
        {"save": killed, "load": loaded}[command](*rest)


if __name__ == "__main__":
    main()
