"""Worker processes log into the run, by the start method named on the command line."""

import multiprocessing
import sys

import runwire


def load(run: runwire.Run, index: int) -> None:
    run.log({"batch": float(index)})


if __name__ == "__main__":
    run = runwire.init("exits")
    context = multiprocessing.get_context(sys.argv[1])
    workers = [context.Process(target=load, args=(run, i)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    run.log({"loss": 1.0})
