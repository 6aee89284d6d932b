"""Guard of the training loop: after `init` nothing raises, failures are counted and logged once.

`log()` pays nothing for it: its own `except` clause calls `report`.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["Guard", "guarded"]

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger("runwire")
# Kinds beyond this share one counter: a caller that builds kinds from data must not grow memory.
KINDS_MAX = 256


class Guard:
    """Counts failures by kind and logs the first of each; re-raises them in strict mode.

    Threads: safe; the lock is taken on the failure path only.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def report(self, kind: str, exc: BaseException, *, hint: str = "") -> None:
        """Count a failure; log the first of its kind with what to do.

        Raises: `exc` itself in strict mode.
        """
        if self.strict:
            raise exc
        with self._lock:
            if kind not in self.counts and len(self.counts) >= KINDS_MAX:
                kind = "other"
            first = kind not in self.counts
            self.counts[kind] = self.counts.get(kind, 0) + 1
        if first:
            advice = hint or "Training continues; set RUNWIRE_STRICT=1 to raise here instead."
            # Outside the lock: a user's log handler may call runwire again.
            _log.warning(
                "runwire: %s failed: %s (further ones are only counted). %s",
                kind,
                _describe(exc),
                advice,
            )

    @contextmanager
    def catching(self, kind: str, *, hint: str = "") -> Iterator[None]:
        """Report what the block raises; KeyboardInterrupt and SystemExit pass."""
        try:
            yield
        except Exception as exc:
            self.report(kind, exc, hint=hint)

    def reset_after_fork(self) -> None:
        """Replace the lock: the fork may have copied it while another thread held it."""
        self._lock = threading.Lock()


class _Guarded(Protocol):
    @property
    def guard(self) -> Guard: ...


S = TypeVar("S", bound=_Guarded)


def guarded(
    kind: str, *, default: Callable[[], Any] | None = None
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """Make a method of an object with a `guard` report instead of raise.

    A failed call returns `default()`, or None without one.
    """

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        @functools.wraps(method)
        def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return method(self, *args, **kwargs)
            except Exception as exc:
                self.guard.report(kind, exc)
                fallback: Any = default() if default is not None else None
                return fallback  # type: ignore[no-any-return]

        return call

    return decorate


def _describe(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception:
        text = "(its message cannot be shown)"
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
