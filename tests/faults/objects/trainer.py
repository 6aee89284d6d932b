"""A trainer for the faults of artifacts: logs what its arguments name and keeps the ledger.

python trainer.py '{"run_id": "r", "ledger": "…", "base": "…", "work": "…", "calls": [...]}'
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import runwire
from faults.objects import contents
from faults.objects.ledger import Ledger
from runwire_store.retention import Retention

SMALL = {"config.yaml": 4_000, "größe/日本.bin": 700_001, "empty": 0, "deep/er/part": 2_000_003}


class Trainer:
    """One process of a run."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.ledger = Ledger(Path(told["ledger"]))
        self.work = Path(told["work"])
        self.work.mkdir(parents=True, exist_ok=True)
        if told.get("clock_s"):
            _set_clock(told["clock_s"])
        self.run = runwire.init("faults", run_id=told["run_id"])

    def call(self, call: dict[str, Any]) -> None:
        """Log one artifact as its `kind` says, then spoil the source: the content is kept."""
        label, path = call["label"], self.work / f"{os.getpid()}-{call['number']}"
        if call["kind"] == "folder":
            files = {}
            for inner, size in SMALL.items():
                (path / inner).parent.mkdir(parents=True, exist_ok=True)
                files[inner] = self._write(path / inner, f"{label} {inner}", size)
        else:
            files = {path.name: self._write(path, call.get("word", label), call["bytes"])}
        self.ledger.before(label, files)
        ref = self._logged(call, path)
        self.ledger.after(label, ref.id, ref.route)
        _spoil(path)
        self.run.log({"calls": call["number"]}, call["number"])

    def _logged(self, call: dict[str, Any], path: Path) -> Any:
        name = call.get("name", call["label"])
        if call.get("die"):
            _die(call["die"])
        if call["kind"] == "checkpoint":
            rules = Retention(**call["retention"]) if "retention" in call else None
            return self.run.log_checkpoint(path, call["number"], retention=rules)
        if call["kind"] == "bytes":
            return self.run.log_artifact(path.read_bytes(), name)
        return self.run.log_artifact(path, name)

    def end(self) -> None:
        """Wait for the stop file, then end in order."""
        while not Path(self.told["stop"]).exists():
            time.sleep(0.02)
        self.run.finish()

    def _write(self, path: Path, word: str, size: int) -> tuple[str, int]:
        return contents.write(path, Path(self.told["base"]), word, size)


def _spoil(path: Path) -> None:
    """Write into the logged file and delete it, as the next save of a trainer would."""
    if path.is_dir():
        shutil.rmtree(path)
        return
    with path.open("r+b") as file:
        file.write(b"spoiled after the call returned")
    path.unlink()


def _die(moment: str) -> None:
    """Have this process end amid its next call: module.Class:method:at, or :behind."""
    place, method, when = moment.split(":")
    module, _, name = place.rpartition(".")
    owner = getattr(importlib.import_module(module), name)
    real = getattr(owner, method)

    def last(*args: Any, **kwargs: Any) -> None:
        if when == "behind":
            real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, method, last)


def _set_clock(seconds: float) -> None:
    """Have this process see another time."""
    real = time.time_ns
    time.time_ns = lambda: real() + int(seconds * 1e9)
    time.time = lambda: time.time_ns() / 1e9


def main() -> None:
    trainer = Trainer(json.loads(sys.argv[1]))
    for call in trainer.told["calls"]:
        trainer.call(call)
    trainer.end()


if __name__ == "__main__":
    main()
