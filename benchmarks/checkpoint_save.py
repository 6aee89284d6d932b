"""Time that a checkpoint stops training, size saved by zstd, cost of an upload to a training loop.

Needs torch; without it nothing is measured. The floor of the saves is `torch.save` of the same
state to the same disk in the same run, in turns; the floor of the loop is the same steps without
an upload. zstd compresses the weights of a small GPT after some hundred steps on English text.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

import runwire
from measure import figure, machine, median
from runwire.checkpoints.state_file import compress_file, decompressed, digest_of
from runwire_schemas.connections.s3 import S3Settings
from stores import distant_bucket, fresh_bucket

try:
    import torch
except ImportError:
    print("checkpoint_save.py: torch is not installed: nothing is measured", file=sys.stderr)
    sys.exit(0)

MIB = 1024 * 1024
STATE_BYTES = int(os.environ.get("RUNWIRE_BENCH_BYTES", str(512 * MIB)))
UPLOAD_BYTES = int(os.environ.get("RUNWIRE_BENCH_LARGE_BYTES", str(1024 * MIB)))
TURNS = int(os.environ.get("RUNWIRE_BENCH_TURNS", "5"))
TRAINING_STEPS = int(os.environ.get("RUNWIRE_BENCH_STEPS", "300"))
PATIENCE_S = 300.0
# Steps of the loop that is slowed down: about 10 ms each, in one thread as a data loader leaves it.
BLOCK_STEPS = 10
WIDTH = 384
PLAIN = """
import os, sys
from minio import Minio
os.nice(19)
address, key, bucket, path = sys.argv[1:]
secret = os.environ["RUNWIRE_S3_SECRET_KEY"]
Minio(address, key, secret, secure=False).fput_object(bucket, "plain", path)
"""


def state_of(size: int) -> dict[str, Any]:
    """Return a model of eight layers and its Adam moments."""
    rows = size // 3 // 8 // 4 // 1024
    model = {f"layer{n}": torch.randn(rows, 1024) for n in range(8)}
    moments = {
        n: {"exp_avg": torch.randn_like(weight), "exp_avg_sq": torch.rand_like(weight)}
        for n, weight in enumerate(model.values())
    }
    return {"model": model, "optimizer": {"state": moments}}


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain(state: dict[str, Any], path: Path, *, sync: bool) -> None:
    torch.save(state, path)
    if sync:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def blocking() -> None:
    """Measure how long the caller of a save waits, in turns with `torch.save`."""
    state, took = state_of(STATE_BYTES), dict[str, list[float]]()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        settings = runwire.Settings(dir=folder, agent="none", strict=True, checkpoint_keep_last=1)
        path = Path(folder) / "plain.pt"
        with runwire.init("bench", settings=settings) as run:
            save, later = run.save_checkpoint, partial(run.save_checkpoint, asynchronous=True)
            for turn in range(TURNS + 1):  # the first one warms up memory and disk
                ways: dict[str, Callable[[], object]] = {
                    "torch.save": partial(plain, state, path, sync=False),
                    "torch.save + fsync": partial(plain, state, path, sync=True),
                    "save": partial(save, 2 * turn, **state),
                    "asynchronous": partial(later, 2 * turn + 1, **state),
                    "until it is on the disk": join_saves,
                }
                for name, way in ways.items():
                    seconds = timed(way)
                    if turn:
                        took.setdefault(name, []).append(seconds)
                    path.unlink(missing_ok=True)
                    clean(Path(folder))
                    os.sync()
    floor = median(took["torch.save"])
    size = f"{STATE_BYTES / MIB:.0f} MiB"
    for name, seconds in took.items():
        what = name if name.startswith("torch") else f"save_checkpoint, {name}"
        ratio = median(seconds) / floor
        figure(f"{what}, {size}", median(seconds), "s", floor="torch.save", ratio=ratio)


def join_saves() -> None:
    """Wait for the thread of an asynchronous save."""
    for thread in threading.enumerate():
        if thread.name == "runwire-checkpoint":
            thread.join()


def clean(root: Path) -> None:
    """Empty the outbox: its hard links would keep all checkpoints on the disk."""
    for folder in (root / "outbox").glob("*"):
        shutil.rmtree(folder, ignore_errors=True)


def trained() -> tuple[Any, Any]:
    """Return a small GPT and its optimizer after some hundred steps."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import char_gpt

    torch.manual_seed(0)
    text = char_gpt.read_text()
    alphabet = sorted(set(text))
    data = torch.tensor([alphabet.index(c) for c in text])
    shape = {"context": 64, "layers": 4, "width": WIDTH, "heads": 6}
    model = char_gpt.CharGPT(characters=len(alphabet), **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1)
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        char_gpt.loss_of(model, *char_gpt.draw_batch(data, 64, 8)).backward()
        optimizer.step()
    return model, optimizer


def compression() -> None:
    """Measure the size that zstd saves for each kind of state, and its speed."""
    model, optimizer = trained()
    weights = model.state_dict()
    moments = list(optimizer.state_dict()["state"].values())
    parts = {
        "fp32 weights": weights,
        "bf16 weights": {name: value.bfloat16() for name, value in weights.items()},
        "Adam exp_avg": [moment["exp_avg"] for moment in moments],
        "Adam exp_avg_sq": [moment["exp_avg_sq"] for moment in moments],
        "fp32 weights + Adam": {"model": weights, "optimizer": optimizer.state_dict()},
    }
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for name, part in parts.items():
            raw, packed = Path(folder) / "raw", Path(folder) / "packed"
            torch.save(part, raw)
            took = timed(lambda raw=raw, packed=packed: compress_file(raw, packed))
            size, small = raw.stat().st_size, packed.stat().st_size
            saved = 1 - small / size
            figure(f"zstd saves of {name}", saved * 100, "%", floor="plain", ratio=small / size)
            if name.endswith("Adam"):
                hashing = timed(lambda raw=raw: digest_of(raw))
                figure("zstd compresses", size / MIB / took, "MiB/s", floor="SHA-256 of the same",
                       ratio=hashing / took)  # fmt: skip
                with decompressed(packed, size):
                    pass
            raw.unlink()
            packed.unlink()


class Loop:
    """A CPU training of about 10 ms a step in one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(512, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 512)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.x = torch.randn(48, 512)

    def block(self) -> float:
        start = time.perf_counter()
        for _ in range(BLOCK_STEPS):
            self.optimizer.zero_grad()
            self.model(self.x).square().mean().backward()
            self.optimizer.step()
        return time.perf_counter() - start


def step_aside(endpoint: str) -> None:
    """Run the store at idle priority, because a real store has its own machine."""
    port = urlsplit(endpoint).port
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, PermissionError):
            if any(c.laddr.port == port for c in process.net_connections() if not c.raddr):
                for thread in process.threads():
                    os.sched_setscheduler(thread.id, os.SCHED_IDLE, os.sched_param(0))


def agents_of(root: Path) -> list[psutil.Process]:
    """Return the agents of a data root."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "runwire_agent" in (words := process.cmdline()) and str(root) in words:
                found.append(process)
    return found


def beside(
    loop: Loop, uploaders: list[psutil.Process], is_under_way: Callable[[], bool]
) -> Iterator[float]:
    """Yield the slowdown of a block during the upload, relative to blocks while it is stopped.

    Blocks alternate, so other load on the machine affects both alike.
    """
    began, before, during = time.perf_counter(), 0.0, 0.0
    while is_under_way() and time.perf_counter() - began < PATIENCE_S:
        for uploader in uploaders:
            uploader.suspend()
        time.sleep(0.05)  # until the store has processed what it received
        after = loop.block()
        for uploader in uploaders:
            uploader.resume()
        if before:
            yield during / ((before + after) / 2) - 1
        time.sleep(0.05)
        before, during = after, loop.block()


def client(s3: S3Settings, path: Path) -> subprocess.Popen[bytes]:
    """Upload the same file with the plain `minio` client, at the agent's low priority."""
    words = [sys.executable, "-c", PLAIN, s3.address, s3.access_key, s3.bucket, str(path)]
    return subprocess.Popen(words, env=os.environ | s3.environment())


def is_running(process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    return lambda: process.poll() is None


def upload() -> None:
    """Measure a loop during an upload to a distant store, then to one that shares the two cores."""
    uploaded(distant_bucket(), "store behind 1 Gbit/s", "<= 5 %")
    uploaded(fresh_bucket("versitygw"), "versitygw on the same cores", "")


def uploaded(bucket: contextlib.AbstractContextManager[S3Settings], where: str, bar: str) -> None:
    """Measure a loop while an agent uploads a checkpoint, in turns with the loop alone."""
    loop = Loop()
    loop.block()
    slowdowns, plain, took = list[float](), list[float](), list[float]()
    with bucket as s3, tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        step_aside(s3.endpoint)
        os.environ.update(s3.environment())
        settings = runwire.Settings(dir=folder, strict=True, checkpoint_keep_last=1)
        with runwire.init("bench", settings=settings) as run:
            state, agents = state_of(UPLOAD_BYTES), agents_of(Path(folder))
            for turn in range(TURNS):
                saved = run.save_checkpoint(turn, **state)
                began = time.perf_counter()
                waiting = Path(folder) / "outbox" / saved.artifact
                slowdowns += beside(loop, agents, waiting.exists)
                took.append(time.perf_counter() - began)
                with client(s3, saved.path / "state.pt") as process:
                    plain += beside(loop, [psutil.Process(process.pid)], is_running(process))
    slow, size = median(slowdowns), f"{UPLOAD_BYTES / MIB:.0f} MiB"
    figure(
        f"loop slowdown, upload of a {size} checkpoint, {where}", slow * 100, "%",
        floor="same loop, agent stopped", ratio=1 + slow, bar=bar,
    )  # fmt: skip
    figure(
        f"loop slowdown, the same by the plain client at nice 19, {where}",
        median(plain) * 100, "%", floor="same loop, client stopped", ratio=1 + median(plain),
    )  # fmt: skip
    figure(
        f"upload of {size}, stopped half of the time, {where}", median(took), "s",
        floor="one minute", ratio=median(took) / 60,
    )  # fmt: skip


def main() -> None:
    print(machine())
    chosen = sys.argv[1:] or ["blocking", "compression", "upload"]
    for name in chosen:
        {"blocking": blocking, "compression": compression, "upload": upload}[name]()
    assert threading.active_count() == 1


if __name__ == "__main__":
    main()
