"""A trainer for the kill fuzz: logs what `ledger.py` says and acknowledges each call that returned.

python fuzz_trainer.py '{"mode": "single", "label": 0, "calls": 1000, ...}'
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ledger

import runwire

LABELS = {"single": 1, "threads": 4, "forks": 3}


def work(run: runwire.Run, label: int, told: dict[str, Any]) -> None:
    """Log until the stop file exists, with bursts and pauses."""
    acks = ledger.Acks(Path(told["acks"]), label)
    stop, first = told["stop"], label * ledger.LABEL_STEPS
    for step in range(first, first + told["calls"]):
        kind = ledger.kind_of(step)
        if kind == ledger.METRIC:
            run.log(ledger.metrics(step), step)
        elif kind == ledger.TEXT:
            run.log_text(ledger.text(step), "note", step)
        else:
            run.log_param(f"p{step}", step)
        acks.acknowledge(step)
        if step % 50 < 35:
            time.sleep((step % 7) * told["pause_s"])
        if os.path.exists(stop):  # noqa: PTH110 - the quickest way to ask
            return


def in_child(run: runwire.Run, label: int, told: dict[str, Any], parent: int) -> None:
    """Work as a forked child that ends with its parent."""
    threading.Thread(target=leave_with, args=(parent,), daemon=True).start()
    work(run, label, told)
    os._exit(0)


def leave_with(parent: int) -> None:
    """End this process once it is an orphan."""
    while os.getppid() == parent:
        time.sleep(0.05)
    os._exit(0)


def main() -> None:
    told = json.loads(sys.argv[1])
    mode, label = told["mode"], told["label"]
    run = runwire.init("faults", run_id=told["run_id"], config={"mode": mode})
    if mode == "threads":
        threads = [
            threading.Thread(target=work, args=(run, label + n, told)) for n in range(LABELS[mode])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elif mode == "forks":
        parent = os.getpid()
        children = []
        for n in (1, 2):
            pid = os.fork()
            if pid == 0:
                in_child(run, label + n, told, parent)
            children.append(pid)
        work(run, label, told)
        for pid in children:
            os.waitpid(pid, 0)
    else:
        work(run, label, told)
    run.finish()


if __name__ == "__main__":
    main()
