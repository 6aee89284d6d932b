"""Where settings come from and how their text is read: environment, `runwire.toml`, arguments."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runwire_schemas.errors import ConfigError

__all__ = [
    "TOML_NAME",
    "Field",
    "environment_values",
    "parse_value",
    "refuse_unknown",
    "toml_values",
]

TOML_NAME = "runwire.toml"
PREFIX = "RUNWIRE_"
# Variables of the other parts: read by the worker, the engine, tests and benchmarks.
FOREIGN_PREFIXES = (
    "BENCH_",
    "CLICKHOUSE_",
    "WORKER_",
    "ENGINE_",
    "UP_",
    "TEST_",
    "SERVERS_",
    "FAULTS",
    "DEBUG",
    "DISABLED",
)
# Lifecycle, metrics and texts take a segment of 256 KiB each before the first point fits.
SIZE_MIN = 1024**2
_log = logging.getLogger("runwire")
_warned: set[str] = set()
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})
_SIZE = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kmgt]i?b|b)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "b": 1} | {
    unit: base**power
    for power, letter in enumerate("kmgt", start=1)
    for unit, base in ((f"{letter}b", 1000), (f"{letter}ib", 1024))
}


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the settings table; `env` and the toml key follow from the name."""

    name: str
    kind: str
    unit: str
    default: object
    meaning: str
    choices: tuple[str, ...] = ()

    @property
    def env(self) -> str:
        """Environment variable of this setting."""
        return PREFIX + self.name.upper()

    @property
    def accepts(self) -> str:
        """Words for the error message: what a value may be."""
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        return {
            "text": "text",
            "secret": "text",
            "path": "a path",
            "flag": "true or false (1, 0, yes, no, on, off)",
            "bytes": "a number of bytes of at least 1MiB, for example 2147483648 or 2GiB",
            "count": "a whole number, 0 or more",
            "ratio": "a number from 0 to below 1",
            "seconds": "a number of seconds, 0 or more",
            "names": "comma separated signal names, for example SIGTERM,SIGUSR1",
        }[self.kind]


def parse_value(field: Field, value: object, source: str) -> Any:
    """The setting's typed value.

    Raises: ConfigError naming the value, its source and what is accepted.
    """
    try:
        parsed = _PARSERS[field.kind](field, value)
    except (ValueError, TypeError):
        shown = "a secret" if field.kind == "secret" else repr(value)
        raise ConfigError(
            f"{source} is {shown} ({type(value).__name__}), but the setting "
            f"{field.name!r} accepts {field.accepts}. Correct it or remove it to use the "
            f"default ({field.default!r})."
        ) from None
    return parsed


def environment_values(environ: Mapping[str, str], table: Mapping[str, Field]) -> dict[str, Any]:
    """Typed values of the variables that are set; an empty variable counts as unset."""
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable[len(PREFIX) :].lower()
        field = table.get(name)
        if field is None:
            _warn_unknown_variable(variable, table)
        elif text.strip():
            values[name] = parse_value(field, text, f"environment variable {variable}")
    disabled = environ.get(PREFIX + "DISABLED", "")
    if disabled.strip().lower() not in _FALSE:
        values["mode"] = "disabled"
    return values


def toml_values(cwd: Path | None, table: Mapping[str, Field]) -> dict[str, Any]:
    """Typed values of `runwire.toml` in the working folder; none when the file is missing.

    Raises: ConfigError for a file that is not TOML and for keys that nobody knows.
    """
    try:
        path = (cwd if cwd is not None else Path.cwd()) / TOML_NAME
        text = path.read_bytes()
    except OSError:  # missing, unreadable, or the working folder itself was deleted
        return {}
    import tomllib

    try:
        document = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Correct or remove it.") from None
    own = {k: v for k, v in document.items() if not _is_foreign(k.upper())}
    refuse_unknown(own, table, source=f"key in {path}")
    return {k: parse_value(table[k], v, f"{k} in {path}") for k, v in own.items()}


def refuse_unknown(given: Iterable[str], table: Mapping[str, Field], *, source: str) -> None:
    """Raises: ConfigError naming the nearest known setting for the first unknown name."""
    for name in given:
        if name not in table:
            raise ConfigError(
                f"unknown setting {name!r} ({source}).{_nearest(name, table)} "
                f"Known settings: {', '.join(sorted(table))}."
            )


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib  # only an error pays for it

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def _is_foreign(upper_name: str) -> bool:
    return upper_name.startswith(FOREIGN_PREFIXES)


def _warn_unknown_variable(variable: str, table: Mapping[str, Field]) -> None:
    """Warn, not refuse: a variable may be meant for a newer runwire on the same machine."""
    if variable in _warned or _is_foreign(variable[len(PREFIX) :]):
        return
    _warned.add(variable)
    hint = _nearest(variable, [field.env for field in table.values()])
    _log.warning("runwire: environment variable %s is not known and ignored.%s", variable, hint)


def _text(_field: Field, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value.strip()


def _secret(_field: Field, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value.strip("\r\n")


def _path(_field: Field, value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError
    path = os.fspath(value)
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise ValueError
    return path


def _choice(field: Field, value: object) -> str:
    word = _text(field, value).lower()
    if word not in field.choices:
        raise ValueError
    return word


def _flag(_field: Field, value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else None
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def _bytes(_field: Field, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError
    number = float(match[1]) if "." in match[1] else int(match[1])
    size = int(number * _SIZE_UNITS[(match[2] or "").lower()])
    if size < SIZE_MIN:
        raise ValueError
    return size


def _count(_field: Field, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError
    number = int(value)
    if number < 0:
        raise ValueError
    return number


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number


def _ratio(_field: Field, value: object) -> float:
    number = _number(value)
    if number >= 1:
        raise ValueError
    return number


def _seconds(_field: Field, value: object) -> float:
    return _number(value)


def _signal_names(_field: Field, value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)  # type: ignore[call-overload]
    names = tuple(_text(_field, part).upper() for part in parts if part)
    for name in names:
        if not name.startswith("SIG") or not hasattr(signal, name):
            raise ValueError
    return names


_PARSERS = {
    "text": _text,
    "secret": _secret,
    "path": _path,
    "choice": _choice,
    "flag": _flag,
    "bytes": _bytes,
    "count": _count,
    "ratio": _ratio,
    "seconds": _seconds,
    "names": _signal_names,
}
