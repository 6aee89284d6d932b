"""Guard of the training loop: after `init` nothing raises, failures are counted and logged by name.

`log()` pays nothing for it: its own `except` clause calls `report`.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from runwire.arguments import Arguments, Refusal, with_arguments
from runwire.conversion import ArgumentKind
from runwire.errors import ConfigError, RunwireError
from runwire_disk.interrupts import reraise_interrupt, suppressed

__all__ = ["Guard", "needed_call", "public_call", "starting_call"]

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger("runwire")
# Kinds beyond this share one counter: a caller that builds kinds from data must not grow memory.
KINDS_MAX = 256
# Names that get a line of their own, over all kinds; for the same reason.
NAMES_MAX = 1024
_ADVICE = "Training continues; set RUNWIRE_STRICT=1 to raise here instead."
# Arguments that name what a call records.
_SUBJECTS = ("name", "key")


def _handle_safely(handle: Callable[[logging.LogRecord], None], record: logging.LogRecord) -> None:
    with suppressed(Exception):
        handle(record)


# A handler or filter of the user that raises must not reach the trainer, whichever part of runwire
# logs. Of this one logger only; its class may be the user's own.
setattr(_log, "handle", functools.partial(_handle_safely, _log.handle))  # noqa: B010


class Guard:
    """Counts failures by kind, logs the first of each name, re-raises them in strict mode.

    Threads: safe; the lock is taken on the failure path only, and is reentrant: a signal handler
    may fail inside a failure of its own thread.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.counts: dict[str, int] = {}
        self._logged: set[tuple[str, str]] = set()
        self._noted: set[tuple[str, str]] = set()
        self._lock = threading.RLock()

    def report(self, kind: str, exc: BaseException, *, hint: str = "", name: str = "") -> None:
        """Count a failure; log the first of its kind and `name` with what to do.

        Raises: `exc` itself in strict mode, and an interrupt: it is no failure.
        """
        if self._count(kind, exc, name):
            of = f" of {name}" if name else ""
            # Outside the lock: a user's log handler may call runwire again.
            _log.warning(
                "runwire: %s%s failed: %s (further ones are only counted). %s",
                kind,
                of,
                _describe(exc),
                hint or _ADVICE,
            )

    def report_loss(self, kind: str, name: str, exc: BaseException) -> None:
        """Count a lost checkpoint or artifact and log it by its name, every time.

        Raises: as `report`.
        """
        self._count(kind, exc)
        _log.warning("runwire: %s failed, %s is lost: %s. %s", kind, name, _describe(exc), _ADVICE)

    def leave_out(
        self, call: str, problem: Refusal, *, error: type[RunwireError] = ConfigError
    ) -> None:
        """Count one unusable argument of a call; log the first of its name.

        Raises: `error` in strict mode.
        """
        if self._count(call, error(f"{call}(): {problem.sentence}"), problem.argument):
            _log.warning(
                "runwire: %s(): %s: it is left out, the rest of the call is kept (further ones are "
                "only counted). %s",
                call,
                problem.sentence,
                _ADVICE,
            )

    def note(self, call: str, name: str, sentence: str) -> None:
        """Log what a call did to its values, once per name; nothing failed."""
        with self._lock:
            is_known = (call, name) in self._noted or len(self._noted) >= NAMES_MAX
            self._noted.add((call, name))
        if not is_known:
            _log.warning("runwire: %s of %s: %s.", call, name, sentence)

    def _count(self, kind: str, exc: BaseException, name: str = "") -> bool:
        """Count a failure; return whether it is the first of its name. Raises: as `report`."""
        reraise_interrupt(exc)
        if self.strict:
            raise exc
        with self._lock:
            if kind not in self.counts and len(self.counts) >= KINDS_MAX:
                kind, name = "other", ""
            self.counts[kind] = self.counts.get(kind, 0) + 1
            if (kind, name) in self._logged or len(self._logged) >= NAMES_MAX:
                return False
            self._logged.add((kind, name))
            return True

    def swallowed(self) -> dict[str, int]:
        """Return the failed calls by `call:` and their kind, without those of `log`.

        What `log` refuses is counted in points, by reason, where the spool counts what it drops.
        """
        with self._lock:
            counts = dict(self.counts)
        return {f"call:{k}": n for k, n in counts.items() if k.partition(":")[0] != "log"}

    @contextmanager
    def catching(self, kind: str, *, hint: str = "") -> Iterator[None]:
        """Report what the block raises; KeyboardInterrupt and SystemExit pass."""
        try:
            yield
        except Exception as exc:
            self.report(kind, exc, hint=hint)

    def reset_after_fork(self) -> None:
        """Replace the lock: the fork may have copied it while another thread held it."""
        self._lock = threading.RLock()


class _Guarded(Protocol):
    @property
    def guard(self) -> Guard: ...


S = TypeVar("S", bound=_Guarded)


def public_call(
    *,
    default: Callable[[], Any] | None = None,
    error: type[RunwireError] = ConfigError,
    raises: bool = False,
    loses: Sequence[str] = (),
    **kinds: ArgumentKind,
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """Declare a method's arguments; convert them at the call, and report instead of raise.

    An argument that cannot be converted is left out; without one that it needs, or when it fails,
    the call returns `default()`, or None. With `raises` the result is needed: both raise. With
    `loses` a failed call loses what the first of these arguments with a value names, and is
    reported every time.
    """

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        table = Arguments(method, kinds, refuses_none=raises)

        @functools.wraps(method)
        def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            guard, missing = self.guard, ""

            def leave_out(problem: Refusal) -> None:
                nonlocal missing
                if problem.is_fatal or raises:
                    missing = problem.argument
                    raise error(f"{table.call}(): {problem.sentence}")
                guard.leave_out(table.call, problem, error=error)

            if raises:
                plain, named = table.plain(args, kwargs, leave_out)
                return method(self, *plain, **named)
            try:
                if table.are_plain(args, kwargs):
                    return method(self, *args, **kwargs)
                plain, named = table.plain(args, kwargs, leave_out)
                return method(self, *plain, **named)
            except Exception as exc:
                if loses:
                    guard.report_loss(table.call, table.name_of(loses, args, kwargs), exc)
                else:
                    name = missing or table.name_of(_SUBJECTS, args, kwargs)
                    guard.report(table.call, exc, name=name)
            fallback: Any = None
            if default is not None:
                with guard.catching(table.call):
                    fallback = default()
            return fallback  # type: ignore[no-any-return]

        return with_arguments(call, table)

    return decorate


def needed_call(
    *, error: type[RunwireError], **kinds: ArgumentKind
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Declare the arguments of a function or method without a run, whose result the caller needs.

    Raises: `error` for an argument that cannot be converted, whatever the function raises.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        table = Arguments(function, kinds, refuses_none=True)

        def refuse(problem: Refusal) -> None:
            raise error(f"{table.call}(): {problem.sentence}")

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            owner: tuple[Any, ...] = args[: table.is_method]
            plain, named = table.plain(args[len(owner) :], kwargs, refuse, keep_unknown=True)
            return function(*owner, *plain, **named)

        return with_arguments(call, table)

    return decorate


class _Started(_Guarded, Protocol):
    def finish(self, status: str | None = None) -> object:
        """End the run."""


R = TypeVar("R", bound=_Started)


def starting_call(
    *, needed: tuple[str, ...] = (), **kinds: ArgumentKind
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare the arguments of a function that returns a run, as `public_call`.

    `needed` decide where the run is recorded: without them no run is started.
    Raises: ConfigError for one of `needed`, whatever the function raises.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        table = Arguments(function, kinds)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            problems: list[Refusal] = []

            def leave_out(problem: Refusal) -> None:
                if problem.argument in needed:
                    raise ConfigError(f"{table.call}(): {problem.sentence}")
                problems.append(problem)

            plain, named = table.plain(args, kwargs, leave_out, keep_unknown=True)
            run = function(*plain, **named)
            try:
                for problem in problems:
                    run.guard.leave_out(table.call, problem)
            except ConfigError:  # strict
                run.finish("failed")
                raise
            return run

        return with_arguments(call, table)

    return decorate


def _describe(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception as error:
        reraise_interrupt(error)
        text = "(its message cannot be shown)"
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
