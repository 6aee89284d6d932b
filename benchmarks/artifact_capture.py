"""Time that `log_artifact` holds its caller, for one large file and for many small ones.

TMPDIR selects the file system: one that clones (XFS, btrfs) or one that copies (ext4).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import runwire
from measure import figure, median
from runwire.outbox import capture
from runwire.run import Run
from runwire_disk.outbox.request import outbox_dir

MIB = 1024 * 1024
FILE_BYTES = 1024 * MIB
FILES = 100_000
SMALL_BYTES = 100
TURNS = 5


def timed(action: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    begin_s = time.perf_counter()
    action()
    return time.perf_counter() - begin_s


class Trial:
    """Repeats an action; syncs the disks before each turn and deletes the output after it."""

    def __init__(self, root: Path, turns: int) -> None:
        self._root, self._turns = root, turns

    def seconds(self, action: Callable[[], object]) -> float:
        """Return the median of the turns."""
        took = []
        for _ in range(self._turns):
            os.sync()
            took.append(timed(action))
            for left in (outbox_dir(self._root), self._root / "plain"):
                if left.is_dir():
                    shutil.rmtree(left)
                left.unlink(missing_ok=True)
        return median(took)


def can_clone(folder: Path) -> bool:
    """Return whether this file system can share blocks."""
    (folder / "probe").write_bytes(b"x")
    with (folder / "probe").open("rb") as file:
        return capture._clone(file.fileno(), folder / "probed") >= 0


def large(run: Run, root: Path, folder: Path) -> None:
    """Measure one large file with every policy."""
    path, block = folder / "large", os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(FILE_BYTES // MIB):
            file.write(block)
    trial = Trial(root, TURNS)
    floor_s = trial.seconds(lambda: shutil.copyfile(path, root / "plain"))
    what, floor = f"log_artifact of {FILE_BYTES // MIB} MiB", "shutil.copyfile of the same file"

    def report(name: str, took_s: float) -> None:
        figure(f"{what}, {name}", took_s * 1e3, "ms", floor=floor, ratio=took_s / floor_s)

    if can_clone(folder):
        report("clone", trial.seconds(lambda: run.log_artifact(path)))
    clone, capture._clone = capture._clone, lambda *_: -1
    report("copy", trial.seconds(lambda: run.log_artifact(path)))
    capture._clone = clone
    report("link", trial.seconds(lambda: run.log_artifact(path, policy="link")))
    report("reference", trial.seconds(lambda: run.log_artifact(path, policy="reference")))
    path.unlink()


def small(run: Run, root: Path, folder: Path) -> None:
    """Measure a folder of many small files."""
    many = folder / "many"
    for number in range(FILES):
        if number % 1000 == 0:
            (many / f"{number // 1000:03d}").mkdir(parents=True)
        (many / f"{number // 1000:03d}" / f"{number:06d}").write_bytes(b"x" * SMALL_BYTES)
    trial = Trial(root, 3)
    floor_s = trial.seconds(lambda: shutil.copytree(many, root / "plain"))
    for policy, name in (("auto", "clone or copy"), ("link", "link")):
        took_s = trial.seconds(lambda policy=policy: run.log_artifact(many, policy=policy))
        figure(
            f"log_artifact of a folder of {FILES:,} files, {name}, per file",
            took_s / FILES * 1e6,
            "us",
            floor="shutil.copytree of the same folder",
            ratio=took_s / floor_s,
        )


def main() -> None:
    """Measure on one file system."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        settings = runwire.Settings(agent="none", strict=True)
        with runwire.init("bench", dir=folder / "data", settings=settings) as run:
            large(run, folder / "data", folder)
            small(run, folder / "data", folder)


if __name__ == "__main__":
    main()
