"""CUDA scalars, copied to the host without making the trainer wait.

Reading a CUDA tensor waits for everything queued before it (40-50 ms in a real loop), so one
call's scalars are stacked, copied to pinned memory on the current stream, and stored when an
event says that the copy is done, with the call's own number, step and time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from runwire_disk.interrupts import reraise_interrupt

Stamp = tuple[int, int, int]
Resolve = Callable[[Stamp, Iterable[str], Iterable[float] | None], None]

# Beyond these limits the oldest call is waited for: it bounds memory and the loss on a crash.
CALLS_MAX = 8
AGE_S_MAX = 2.0


class Copy(Protocol):
    """A copy under way from a device to the host."""

    def is_done(self) -> bool:
        """Return whether `values` would return at once."""

    def values(self) -> Sequence[float]:
        """Return the values. Blocks: until the copy is done."""


class CudaCopy:
    """Copy of 0-d CUDA tensors of one device through pinned memory."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        import torch

        flat = [t.detach().reshape(()).to(torch.float64) for t in tensors]
        stacked = torch.stack([t.to(flat[0].device) for t in flat])
        self._host = torch.empty(len(flat), dtype=torch.float64, pin_memory=True)
        self._host.copy_(stacked, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(flat[0].device))

    def is_done(self) -> bool:
        """Ask the event without waiting."""
        return bool(self._event.query())

    def values(self) -> Sequence[float]:
        """Wait for the event, then read the pinned memory."""
        self._event.synchronize()
        values: list[float] = self._host.tolist()
        return values


class PendingCalls:
    """Calls whose values are still on a device, oldest first."""

    def __init__(self, resolve: Resolve, copy: Callable[[Sequence[Any]], Copy] = CudaCopy) -> None:
        self._resolve, self._copy = resolve, copy
        self._calls: deque[tuple[Stamp, tuple[str, ...], Copy, float]] = deque()

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, stamp: Stamp, values: Mapping[str, Any]) -> None:
        """Start copying one call's values."""
        copy = self._copy(list(values.values()))
        self._calls.append((stamp, tuple(values), copy, time.monotonic()))

    def poll(self, *, wait: bool = False) -> None:
        """Hand over the calls whose copy is done; with `wait`, all of them."""
        while self._calls:
            call = self._calls[0]
            stamp, names, copy, since = call
            overdue = len(self._calls) > CALLS_MAX or time.monotonic() - since > AGE_S_MAX
            if not (wait or overdue or _is_done(copy)):
                return
            values = _values(copy)  # before it is taken: Ctrl-C may end the wait
            try:
                self._calls.remove(call)
            except ValueError:  # taken by another thread, or by a signal handler
                continue
            self._resolve(stamp, names, values)


def _is_done(copy: Copy) -> bool:
    try:
        return copy.is_done()
    except RuntimeError as error:  # a CUDA fault: let `values` find out and count it
        reraise_interrupt(error)
        return True


def _values(copy: Copy) -> Sequence[float] | None:
    try:
        return copy.values()
    except RuntimeError as error:
        reraise_interrupt(error)
        return None
