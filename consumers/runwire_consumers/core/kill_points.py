"""Where the fault harness may kill a worker: RUNWIRE_WORKER_KILL_AT="after-insert:3".

The n-th time the worker reaches the named point it dies by SIGKILL, as if the machine had. Unset,
as it always is outside of tests, `reach` costs one dictionary look-up.
"""

import os
import signal

POINTS = ("before-intent", "after-intent", "after-insert", "after-commit")
_left: dict[str, int] = {}


def arm(setting: str) -> None:
    """Choose where to die; the empty string disarms. Raises: ValueError naming the points."""
    _left.clear()
    if not setting:
        return
    point, _, count = setting.partition(":")
    if point not in POINTS or not (count or "1").isdigit():
        raise ValueError(
            f"RUNWIRE_WORKER_KILL_AT={setting!r}: use <point>:<n> with one of {', '.join(POINTS)}"
        )
    _left[point] = int(count or 1)


def reach(point: str) -> None:
    """Die here if this is the chosen moment."""
    left = _left.get(point)
    if left is None:
        return
    _left[point] = left - 1
    if left <= 1:
        os.kill(os.getpid(), signal.SIGKILL)
