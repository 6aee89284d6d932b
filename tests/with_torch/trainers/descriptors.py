"""A trainer that runs out of file descriptors: argument is the folder of its data."""

import os
import resource
import sys
from pathlib import Path

import torch

import runwire

folder = Path(sys.argv[1])
file = folder / "file"
file.write_bytes(b"content")
run = runwire.init("p", run_id="r", dir=folder / "data")
model = torch.nn.Linear(2, 2)
assert run.save_checkpoint(1, model=model).path
assert run.load_checkpoint("latest").step == 1
assert run.log_artifact(file).size == 7
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
opened = []
try:
    while True:
        opened.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
# The calls need a few at once: every number of free ones fails in another place.
for free in range(8):
    saved = run.save_checkpoint(2 + free, model=model)
    kept = run.log_artifact(file, name=f"free-{free}")
    try:
        loaded = run.load_checkpoint("latest").step
    except runwire.CheckpointError as error:
        loaded = str(error)
    sys.stdout.write(f"{free}|{saved.error or saved.step}|{kept.route}|{loaded}\n")
    os.close(opened.pop())
for fd in opened:
    os.close(fd)
assert run.save_checkpoint(99, model=model).path
assert run.load_checkpoint("latest").step == 99
run.finish()
