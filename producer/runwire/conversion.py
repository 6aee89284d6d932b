"""Kinds of argument that public calls take, and the conversion of what a caller gave to one.

Each public call declares an `ArgumentKind` per argument (`arguments`). Records are made of
plain values only: one of another type would be accepted here and refused by the worker, hours
later, with all that its record holds.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runwire.safe_text import clean_text, json_text, scalar_text
from runwire_disk.interrupts import reraise_interrupt

__all__ = [
    "ANY",
    "CONTENT",
    "EXIT_CODE",
    "FLAG",
    "INSTANT",
    "PARENT",
    "PATH",
    "RANKS",
    "SECONDS",
    "SETTINGS",
    "STEP",
    "STEPS",
    "STEP_OR_TEXT",
    "TAGS",
    "TEXT",
    "TIMEOUT",
    "WORD_OR_FLAG",
    "ArgumentKind",
    "instant_ns",
    "shown",
    "whole_step",
    "word",
]

TEXT_CHARS_MAX: Final = 65_536
# An endless iterator must not take the trainer with it.
TAGS_MAX: Final = 10_000
SECONDS_MAX: Final = 2**63 // 1_000_000_000  # as nanoseconds they fit 64 bits
STEPS: Final = range(-(2**63), 2**63)
# A longer wait is a mistake of units, and would look like a hanging trainer.
WAIT_S_MAX: Final = 10**8
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
    # Whether a value is plain already; may be wrong only by saying no.
    is_plain: Callable[[Any], bool] = lambda _value: False


def whole_step(step: Any) -> int | None:
    """Return a step as int. Raises: TypeError unless it is a whole number of 64 bits."""
    if step is None:
        return None
    try:
        # A comparison of numpy or torch gives their own kind of bool, which is no number either.
        is_bool = isinstance(step, bool) or type(step).__name__.startswith("bool")
        whole = int(step)
        is_whole = not is_bool and bool(whole == step)
    except Exception as error:  # of a user's class; of NaN and infinities
        reraise_interrupt(error)
        raise TypeError(f"step must be an integer, not {type(step).__name__}") from None
    if not is_whole:
        raise TypeError(f"step must be a whole number, not {step!r}")
    if whole not in STEPS:
        raise TypeError("step must fit 64 bits")
    return whole


def instant_ns(ts: Any) -> int:
    """Return a datetime or epoch seconds as epoch nanoseconds. Raises: any error if it is none."""
    if isinstance(ts, (bool, str, bytes)):
        raise TypeError(f"a time is a datetime or epoch seconds, not {type(ts).__name__}")
    seconds = ts.timestamp() if hasattr(ts, "timestamp") else float(ts)
    if not 0 <= seconds < SECONDS_MAX:
        raise TypeError("a time is in seconds since 1970, before 2262")
    return int(seconds * 1_000_000) * 1000


def _wrap(convert: Callable[[Any], Any]) -> Callable[[Any, Omit], Any]:
    return lambda value, _omit: convert(value)


def _text(value: Any) -> str:
    text = scalar_text(value)
    if text is None:
        raise TypeError
    return _limited(text)


def _is_text(value: Any) -> bool:
    return type(value) is str and len(value) <= TEXT_CHARS_MAX and value.isascii()


def _is_step(value: Any) -> bool:
    return type(value) is int and value in STEPS


def _content(value: Any) -> str:
    try:
        text = scalar_text(value)
    except Exception as error:  # of a user's class; `json_text` says so in the text
        reraise_interrupt(error)
        text = None
    return _limited(json_text(value) if text is None else text)


def _limited(text: str) -> str:
    text = clean_text(text)
    return text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + " [cut]"


def _seconds(value: Any) -> float:
    if isinstance(value, (bool, str, bytes)):
        raise TypeError
    seconds = float(value)
    if not 0 <= seconds <= WAIT_S_MAX:  # false for NaN, too
        raise ValueError
    return seconds


def _timeout(value: Any) -> float:
    return _seconds(max(value, 0))  # what is left until a moment that has passed is below 0


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
    given = value if isinstance(value, (str, bytes)) else os.fspath(value)
    path = str.__str__(given) if isinstance(given, str) else os.fsdecode(given)
    if "\0" in path:
        raise ValueError
    return path


def _step_or_text(value: Any) -> int | str:
    text = scalar_text(value)
    if text is None or isinstance(value, (str, bytes)):
        return _text(value)
    step = whole_step(value)
    if step is None:
        raise TypeError
    return step


def _parent(value: Any) -> Any:
    return value if isinstance(getattr(value, "run_id", None), str) else _text(value)


def _ranks(value: Any) -> str | list[int]:
    if isinstance(value, str):
        return _text(value)
    ranks = [whole_step(rank) for rank in (value if isinstance(value, Iterable) else (value,))]
    if any(rank is None or rank < 0 for rank in ranks):
        raise ValueError
    return [rank for rank in ranks if rank is not None]


class _NamedSettings(dict[str, Any]):
    """A mapping of settings, read as `Settings` is."""

    def changed(self) -> dict[str, Any]:
        """Return the settings that were given."""
        return dict(self)


def _settings(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _NamedSettings({_text(name): item for name, item in value.items()})
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
        pairs = ((name, "") for name in itertools.islice(value, TAGS_MAX))
    for name, item in pairs:
        try:
            tags[_text(name)] = "" if item is None else _content(item)
        except Exception as error:
            reraise_interrupt(error)
            omit(shown(name), error)
    return tags


ANY: Final = ArgumentKind("any value", _wrap(lambda value: value), lambda _value: True)
TEXT: Final = ArgumentKind("text", _wrap(_text), _is_text)
CONTENT: Final = ArgumentKind("text, or a value that JSON can express", _wrap(_content), _is_text)
STEP: Final = ArgumentKind("a whole number of 64 bits", _wrap(whole_step), _is_step)
SECONDS: Final = ArgumentKind("a number of seconds from 0 to 10**8", _wrap(_seconds))
TIMEOUT: Final = ArgumentKind("a number of seconds up to 10**8", _wrap(_timeout))
FLAG: Final = ArgumentKind("True or False", _wrap(_flag))
INSTANT: Final = ArgumentKind("a datetime or seconds since 1970", _wrap(instant_ns))
STEP_OR_TEXT: Final = ArgumentKind("'latest', 'best' or a step", _wrap(_step_or_text))
EXIT_CODE: Final = ArgumentKind("a whole number", _wrap(_exit_code))
PATH: Final = ArgumentKind("a path", _wrap(_path))
PARENT: Final = ArgumentKind("a run or the id of one", _wrap(_parent))
SETTINGS: Final = ArgumentKind("runwire.Settings or a mapping of names to values", _wrap(_settings))
RANKS: Final = ArgumentKind("'all', 'zero', or ranks from 0 on", _wrap(_ranks))
WORD_OR_FLAG: Final = ArgumentKind("a word, or True or False", _wrap(_word_or_flag))
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

    return ArgumentKind("one of " + ", ".join(repr(choice) for choice in choices), _wrap(plain))


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
