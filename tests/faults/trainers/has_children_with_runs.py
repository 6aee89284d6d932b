"""Children of multiprocessing start runs of their own, and end in the way that argv names."""

import multiprocessing
import sys

import runwire


def train(how: str) -> None:
    """Log one point in a run named after the end, then end."""
    runwire.init("exits", run_id=how)
    runwire.log({"loss": 1.0})
    if how == "raises":
        raise ValueError("lost batch")
    if how == "exits":
        sys.exit(3)
    if how == "raises_exit":
        raise SystemExit(4)


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    for how in ("returns", "raises", "exits", "raises_exit"):
        child = context.Process(target=train, args=(how,))
        child.start()
        child.join()
        print(how, child.exitcode)
