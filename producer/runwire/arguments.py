"""Declared arguments of public calls: a table per call, and what a call leaves out."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from runwire.conversion import ArgumentKind, shown
from runwire.other_trackers import missing_argument
from runwire_disk.interrupts import reraise_interrupt

__all__ = ["Arguments", "Refusal", "arguments_of", "declared", "with_arguments"]

_DECLARED: Final = "_runwire_arguments"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One argument that was left out. `is_fatal`: the call cannot do without it."""

    argument: str
    sentence: str
    is_fatal: bool = False


class Arguments:
    """The declared arguments of one public call. Raises: nothing but a mistake in the declaration.

    `are_plain` is on the path of every call except `log` itself.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        kinds: Mapping[str, ArgumentKind],
        *,
        refuses_none: bool = False,
    ) -> None:
        self.call = function.__name__
        parameters = list(inspect.signature(function).parameters.values())
        self.is_method = bool(parameters) and parameters[0].name == "self"
        if self.is_method:
            del parameters[0]
        self.kinds = dict(kinds)
        self._refuses_none = refuses_none
        self._defaults = {
            p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty
        }
        # Where None says something by itself it is kept; elsewhere it is the same as no argument,
        # or refused: a result that the caller needs must not be that of a default.
        self._nullable = {p.name for p in parameters if "None" in str(p.annotation)}
        self._names = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        self._keywords = {*self._names, *(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)}
        self._tests = [kinds[name].is_plain for name in self._names if name in kinds]
        self._rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
        self._takes_unknown = any(p.kind is p.VAR_KEYWORD for p in parameters)
        undeclared = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} ^ set(kinds)
        if undeclared:
            raise TypeError(f"{self.call}: declare each argument once, also {sorted(undeclared)}")

    def are_plain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Return whether nothing has to be converted; it is so in the loop of most trainers."""
        if len(args) > len(self._tests):
            return False
        for index, value in enumerate(args):
            if not self._tests[index](value) and (
                value is not None or self._names[index] not in self._nullable
            ):
                return False
        for name, value in kwargs.items():
            if name not in self._keywords or not (
                self.kinds[name].is_plain(value) or (value is None and name in self._nullable)
            ):
                return False
        return True

    def plain(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        leave_out: Callable[[Refusal], None],
        *,
        keep_unknown: bool = False,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments as plain values; each that is left out goes to `leave_out`."""
        names, positional = self._names, []
        for index, value in enumerate(args):
            if index < len(names):
                positional.append(self._one(names[index], value, leave_out))
            elif self._rest:
                kept = self._one(self._rest, value, leave_out)
                positional += [kept] if kept is not None else []
            elif keep_unknown:
                positional.append(value)
            else:
                leave_out(Refusal(shown(value), f"takes at most {len(names)} values"))
        named = {}
        for name, value in kwargs.items():
            if name in self._keywords:
                named[name] = self._one(name, value, leave_out)
            elif keep_unknown or self._takes_unknown:
                named[name] = value
            else:
                leave_out(Refusal(name, missing_argument(name)))
        return positional, named

    def name_of(
        self, names: Iterable[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> str:
        """Return the first of these arguments that has a value, as a sentence shows it."""
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        value = next((given[name] for name in names if given.get(name) is not None), None)
        if value is None:
            return ""
        try:
            named = getattr(value, "name", value)
            return shown(os.fspath(value) if isinstance(value, os.PathLike) else named)
        except Exception as error:  # of a user's class
            reraise_interrupt(error)
            return shown(value)

    def _one(self, name: str, value: Any, leave_out: Callable[[Refusal], None]) -> Any:
        has_default = name in self._defaults
        if value is None and name in self._nullable:
            return None
        if value is None and has_default and not self._refuses_none:
            return self._defaults[name]
        kind = self.kinds[name]

        def omit(item: str, _error: Exception) -> None:
            leave_out(Refusal(f"{name}[{item}]", f"{name} is {kind.takes}"))

        try:
            return kind.plain(value, omit)
        except Exception as error:
            reraise_interrupt(error)
            is_fatal = not has_default and name != self._rest
            text = f"{name}={shown(value)} is not {kind.takes}"
            leave_out(Refusal(name, text, is_fatal=is_fatal))
            return self._defaults.get(name)


F = TypeVar("F", bound=Callable[..., Any])


def declared(**kinds: ArgumentKind) -> Callable[[F], F]:
    """Declare the arguments of a function that converts them itself: its cost per call counts."""

    def decorate(function: F) -> F:
        return with_arguments(function, Arguments(function, kinds))

    return decorate


def with_arguments(function: F, arguments: Arguments) -> F:
    """Return the function, with its declaration where `arguments_of` reads it."""
    setattr(function, _DECLARED, arguments)
    return function


def arguments_of(function: Any) -> Arguments | None:
    """Return the declared arguments of a public call, None without a declaration."""
    known = getattr(function, _DECLARED, None)
    return known if isinstance(known, Arguments) else None
