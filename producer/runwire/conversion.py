"""Kinds of argument that public calls take, and the conversion of what a caller gave to one.

Each public call declares an `ArgumentKind` per argument (`guard.public_call`). Records are made of
plain values only: one of another type would be accepted here and refused by the worker, hours
later, with all that its record holds.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runwire.metrics.values import whole_step
from runwire.safe_text import clean_text, json_text, scalar_text
from runwire_disk.interrupts import reraise_interrupt

__all__ = [
    "ANY",
    "CONTENT",
    "EXIT_CODE",
    "FLAG",
    "PARENT",
    "PATH",
    "SECONDS",
    "SETTINGS",
    "STEP",
    "TAGS",
    "TEXT",
    "WORD_OR_FLAG",
    "ArgumentKind",
    "Arguments",
    "Problem",
    "word",
]

TEXT_CHARS_MAX: Final = 65_536
_INT32: Final = range(-(2**31), 2**31)
# Values that a sentence shows as they are; of others only the type, since a repr may be huge.
_SHOWN: Final = (str, bytes, int, float, bool, type(None), os.PathLike)

Omit = Callable[[str, Exception], None]


@dataclass(frozen=True, slots=True)
class ArgumentKind:
    """One kind of argument: `takes` names it in a sentence, `plain` converts.

    `plain(value, omit)` returns a plain value and calls `omit(item, error)` for each item of a
    collection that it leaves out. Raises: any exception when nothing of the value is usable.
    """

    takes: str
    plain: Callable[[Any, Omit], Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One argument that was left out. `is_fatal`: the call cannot do without it."""

    argument: str
    sentence: str
    is_fatal: bool = False


def _each(convert: Callable[[Any], Any]) -> Callable[[Any, Omit], Any]:
    return lambda value, _omit: convert(value)


def _text(value: Any) -> str:
    text = scalar_text(value)
    if text is None:
        raise TypeError
    return _limited(text)


def _content(value: Any) -> str:
    text = scalar_text(value)
    return _limited(json_text(value) if text is None else text)


def _limited(text: str) -> str:
    text = clean_text(text)
    return text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + " [cut]"


def _step(value: Any) -> int | None:
    return whole_step(value)


def _seconds(value: Any) -> float:
    if isinstance(value, (bool, str, bytes)):
        raise TypeError
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError
    return seconds


def _flag(value: Any) -> bool:
    if isinstance(value, (str, bytes)) or value not in (0, 1):
        raise TypeError
    return bool(value)


def _word_or_flag(value: Any) -> str | bool:
    return value if isinstance(value, bool) else _text(value)


def _exit_code(value: Any) -> int:
    """Return a code as `sys.exit` would pass it on: True is 1, the system keeps the low byte."""
    code = int(value) if isinstance(value, int) else whole_step(value)
    if code is None:
        raise TypeError
    return code if code in _INT32 else code & 0xFF or 1


def _path(value: Any) -> str:
    return os.fsdecode(os.fspath(value))


def _parent(value: Any) -> Any:
    return value if isinstance(getattr(value, "run_id", None), str) else _text(value)


def _settings(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_text(name): item for name, item in value.items()}
    if not callable(getattr(value, "changed", None)):
        raise TypeError
    return value


def _tags(value: Any, omit: Omit) -> dict[str, str]:
    tags: dict[str, str] = {}
    if isinstance(value, Mapping):
        pairs: Iterable[tuple[Any, Any]] = value.items()
    elif (name := scalar_text(value)) is not None:
        pairs = [(name, "")]
    else:
        pairs = ((name, "") for name in value)
    for name, item in pairs:
        try:
            tags[_text(name)] = "" if item is None else _content(item)
        except Exception as error:
            reraise_interrupt(error)
            omit(shown(name), error)
    return tags


ANY: Final = ArgumentKind("any value", _each(lambda value: value))
TEXT: Final = ArgumentKind("text", _each(_text))
CONTENT: Final = ArgumentKind("text, or a value that JSON can express", _each(_content))
STEP: Final = ArgumentKind("a whole number of 64 bits", _each(_step))
SECONDS: Final = ArgumentKind("a finite number of seconds from 0 on", _each(_seconds))
FLAG: Final = ArgumentKind("True or False", _each(_flag))
WORD_OR_FLAG: Final = ArgumentKind("a word, or True or False", _each(_word_or_flag))
EXIT_CODE: Final = ArgumentKind("a whole number", _each(_exit_code))
PATH: Final = ArgumentKind("a path", _each(_path))
PARENT: Final = ArgumentKind("a run or the id of one", _each(_parent))
SETTINGS: Final = ArgumentKind("runwire.Settings or a mapping of names to values", _each(_settings))
TAGS: Final = ArgumentKind("a mapping of names to texts, or a sequence of names", _tags)


def word(*choices: str, also: Mapping[str, str] | None = None) -> ArgumentKind:
    """Return the kind of argument that is one of `choices`, in any case.

    `also` maps words of other libraries to ours.
    """
    synonyms = also or {}

    def plain(value: Any) -> str:
        text = _text(value).lower()
        text = synonyms.get(text, text)
        if text not in choices:
            raise ValueError
        return text

    return ArgumentKind("one of " + ", ".join(repr(choice) for choice in choices), _each(plain))


def shown(value: Any) -> str:
    """Return a value as a sentence shows it: short, and without running code that may raise."""
    try:
        if isinstance(value, _SHOWN):
            text = ascii(value)
            return text if len(text) <= 80 else text[:80] + "…"
    except Exception as error:
        reraise_interrupt(error)
        return f"<{type(value).__name__} whose repr failed>"
    return f"<{type(value).__name__}>"


class Arguments:
    """The declared arguments of one public call. Raises: nothing but a mistake in the declaration.

    `plain` is on the path of every call except `log` itself, so it looks up names only.
    """

    def __init__(self, function: Callable[..., Any], kinds: Mapping[str, ArgumentKind]) -> None:
        self.call = function.__name__
        parameters = list(inspect.signature(function).parameters.values())
        if parameters and parameters[0].name == "self":
            del parameters[0]
        self.kinds = dict(kinds)
        self._defaults = {
            p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty
        }
        self._names = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        self._keywords = {*self._names, *(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)}
        self._rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
        self._takes_unknown = any(p.kind is p.VAR_KEYWORD for p in parameters)
        undeclared = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} ^ set(kinds)
        if undeclared:
            raise TypeError(f"{self.call}: declare each argument once, also {sorted(undeclared)}")

    def plain(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        leave_out: Callable[[Problem], None],
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
                leave_out(Problem(shown(value), f"takes at most {len(names)} values without names"))
        named = {}
        for name, value in kwargs.items():
            if name in self._keywords:
                named[name] = self._one(name, value, leave_out)
            elif keep_unknown or self._takes_unknown:
                named[name] = value
            else:
                leave_out(Problem(name, f"has no argument {name!r}"))
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

    def _one(self, name: str, value: Any, leave_out: Callable[[Problem], None]) -> Any:
        has_default = name in self._defaults
        if value is None and has_default:
            return self._defaults[name]
        kind = self.kinds[name]

        def omit(item: str, _error: Exception) -> None:
            leave_out(Problem(f"{name}[{item}]", f"{name} is {kind.takes}"))

        try:
            return kind.plain(value, omit)
        except Exception as error:
            reraise_interrupt(error)
            is_fatal = not has_default and name != self._rest
            text = f"{name}={shown(value)} is not {kind.takes}"
            leave_out(Problem(name, text, is_fatal=is_fatal))
            return self._defaults.get(name)
