"""Has its own SIGTERM handler from before init; it leaves with 7 after a clean-up."""

import signal
import sys
import time
from types import FrameType

import runwire


def leave(_signum: int, _frame: FrameType | None) -> None:
    runwire.log({"saved": 1.0})
    sys.exit(7)


signal.signal(signal.SIGTERM, leave)
runwire.init("exits")
print("ready", flush=True)
while True:
    time.sleep(0.05)
