"""The process of the embedded ClickHouse: `python -m ….engine_process <folder>`.

The engine comes from the `chdb-core` wheel. Its listener is started through a private entry
point, so the wheel is pinned; only this file uses it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from runwire_disk.files import try_lock

MISSING_ENGINE = (
    "the embedded engine is not installed: pip install 'runwire[embedded]' "
    "(or set RUNWIRE_CLICKHOUSE_URL to use a ClickHouse server)"
)
# Exit codes that Engine.wait_ready turns back into sentences.
EXIT_MISSING, EXIT_BUSY, EXIT_ORPHAN = 3, 4, 5

# The endless query keeps the listener's session open. TabSeparated becomes the default format
# of the HTTP interface: clickhouse-connect cannot parse any other.
_LISTEN = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; "
    "SELECT sleepEachRow(1) FROM system.numbers "
    "SETTINGS max_block_size=1, function_sleep_max_microseconds_per_block=0 FORMAT Null"
)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def take_lock(folder: Path) -> TextIO | None:
    """Lock the folder and write the pid into the lock; None when another process holds it."""
    lock = (folder / "engine.lock").open("a+")
    for _ in range(20):
        if try_lock(lock.fileno()):
            break
        time.sleep(0.05)  # Engine.alive() holds the lock for a moment to test it
    else:
        lock.close()
        return None
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def die_with(parent: int) -> bool:
    """Make the kernel send SIGTERM when the parent ends; False when it has ended already."""
    if sys.platform == "linux":  # elsewhere the lock shows the engine of a killed `up`
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the folder until SIGTERM.

    Blocks: for the life of the engine.
    """
    parser = argparse.ArgumentParser(prog="engine_process", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder that Engine wrote config.xml into")
    parser.add_argument("--parent", type=int, help="stop when this process is no longer ours")
    options = parser.parse_args(argv)
    if options.parent is not None and not die_with(options.parent):
        return EXIT_ORPHAN
    lock = take_lock(options.folder)
    if lock is None:
        print(f"another engine already serves {options.folder}", file=sys.stderr)
        return EXIT_BUSY
    os.chdir(options.folder)  # the import below reads config.xml from the working directory
    try:
        from chdb import _chdb
    except ModuleNotFoundError:
        print(MISSING_ENGINE, file=sys.stderr)
        return EXIT_MISSING
    # Python's own handler would never run: the engine's query does not return.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _chdb.query(_LISTEN, "TabSeparated")  # type: ignore[attr-defined]
    return 0


if __name__ == "__main__":
    sys.exit(main())
