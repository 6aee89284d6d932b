"""Starts a run in every rank of two launches of `mp.spawn`, or of one torchrun; prints it."""

import sys

import torch.distributed as dist
import torch.multiprocessing as mp

import runwire


def record() -> None:
    """Log one point and print the run of this rank."""
    with runwire.init("launches") as run:
        run.log({"loss": 1.0})
        print(run.id, run.rank, flush=True)


def train(rank: int, meeting: str) -> None:
    """Join the group through a file, which names no address, and record."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    record()
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1:]:
        for number in range(2):
            mp.spawn(train, args=(f"{sys.argv[1]}-{number}",), nprocs=2)
    else:
        record()
