"""Tables of settings: their rows, and values from arguments, environment and `runwire.toml`.

A package declares its settings once, as a dataclass whose fields are made by `setting`. Documents,
parsing and the check for unknown names read the rows of that class.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runwire_schemas.errors import ConfigError

__all__ = [
    "BYTES",
    "COUNT",
    "FLAG",
    "NUMBER",
    "PATH",
    "RATIO",
    "SECONDS",
    "SECRET",
    "SIGNALS",
    "TABLES_GROUP",
    "TEXT",
    "TOML_NAME",
    "Kind",
    "Setting",
    "choice",
    "environment_values",
    "parse_value",
    "refuse_unknown",
    "rows_of",
    "setting",
    "shared",
    "table_values",
    "toml_values",
]

TOML_NAME: Final = "runwire.toml"
PREFIX: Final = "RUNWIRE_"
# Entry points of this group name the settings classes of every installed package.
TABLES_GROUP: Final = "runwire.settings"
# Read by the tests, the benchmarks and the servers they start, which are no package.
_DEVELOPMENT_PREFIXES: Final = ("BENCH_", "TEST_", "SERVERS_", "FAULTS")
# Switches that are read outside any table: `runwire.cli` and `environment_values`.
_SWITCHES: Final = ("DEBUG", "DISABLED")
# Lifecycle, metrics and texts take a segment of 256 KiB each before the first point fits.
SIZE_MIN: Final = 1024**2
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
class Kind:
    """A type of value: its parser, and the description of accepted values for errors.

    `parse` raises ValueError or TypeError for any other value.
    """

    accepts: str
    parse: Callable[[object], Any]
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of a settings table; the variable and the toml key follow from the name."""

    name: str
    kind: Kind
    default: object
    meaning: str
    prefix: str = PREFIX

    @property
    def env(self) -> str:
        """Environment variable of this setting."""
        return self.prefix + self.name.upper()

    @property
    def key(self) -> str:
        """Key of this setting in `runwire.toml`."""
        return self.env.removeprefix(PREFIX).lower()


def setting(kind: Kind, default: object, meaning: str) -> Any:
    """Declare one row: the field of a settings class with its default and meaning."""
    return dataclasses.field(
        default=default, repr=not kind.is_secret, metadata={"kind": kind, "meaning": meaning}
    )


def shared(table: type, name: str) -> Any:
    """Declare the same row as another table: one definition of kind, default and meaning.

    An empty text of that table is None here, "unset".
    """
    row = rows_of(table)[name]
    return setting(row.kind, None if row.default == "" else row.default, row.meaning)


def rows_of(table: type) -> Mapping[str, Setting]:
    """Return the rows of a settings class by name; its PREFIX says where variables begin."""
    prefix = getattr(table, "PREFIX", PREFIX)
    return {
        row.name: Setting(
            row.name, row.metadata["kind"], row.default, row.metadata["meaning"], prefix
        )
        for row in dataclasses.fields(table)
    }


def parse_value(row: Setting, value: object, source: str) -> Any:
    """The setting's typed value.

    Raises: ConfigError naming the value, its source and what is accepted.
    """
    try:
        return row.kind.parse(value)
    except (ValueError, TypeError):
        shown = "a secret" if row.kind.is_secret else repr(value)
        raise ConfigError(
            f"{source} is {shown} ({type(value).__name__}), but the setting "
            f"{row.name!r} accepts {row.kind.accepts}. Correct it or remove it to use the "
            f"default ({row.default!r})."
        ) from None


def environment_values(environ: Mapping[str, str], table: type) -> dict[str, Any]:
    """Typed values as `table_values`, after a look at all other RUNWIRE_ variables.

    A variable that no installed table knows is reported once: it may be meant for a newer runwire.
    """
    own = {row.env for row in rows_of(table).values()}
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in own:
            _warn_if_unknown(variable, own)
    return table_values(environ, table)


def table_values(environ: Mapping[str, str], table: type) -> dict[str, Any]:
    """Typed values of the variables of one table; an empty variable counts as unset.

    Raises: ConfigError naming the variable, its value and what is accepted.
    """
    return {
        row.name: parse_value(row, text, f"environment variable {row.env}")
        for row in rows_of(table).values()
        if (text := environ.get(row.env, "")).strip()
    }


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether RUNWIRE_DISABLED switches everything off."""
    return environ.get(PREFIX + "DISABLED", "").strip().lower() not in _FALSE


def toml_values(cwd: Path | None, table: type) -> dict[str, Any]:
    """Typed values of `runwire.toml` in the working folder; none when the file is missing.

    Raises: ConfigError for a file that is not TOML and for keys that no installed table has.
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
    keys = {row.key: row for row in rows_of(table).values()}
    others = {k for k in document if k not in keys and _is_known_elsewhere(PREFIX + k.upper())}
    own = {k: v for k, v in document.items() if k not in others}
    refuse_unknown(own, keys, source=f"key in {path}")
    return {keys[k].name: parse_value(keys[k], v, f"{k} in {path}") for k, v in own.items()}


def refuse_unknown(given: Iterable[str], known: Mapping[str, Setting], *, source: str) -> None:
    """Raises: ConfigError naming the nearest known setting for the first unknown name."""
    for name in given:
        if name not in known:
            raise ConfigError(
                f"unknown setting {name!r} ({source}).{_nearest(name, known)} "
                f"Known settings: {', '.join(sorted(known))}."
            )


@functools.cache
def installed_variables() -> frozenset[str]:
    """Variables of all settings tables that the installed packages declare."""
    from importlib.metadata import entry_points  # 20 ms: only an unknown name pays for it

    tables = (entry.load() for entry in entry_points(group=TABLES_GROUP))
    return frozenset(row.env for table in tables for row in rows_of(table).values())


def _is_known_elsewhere(variable: str) -> bool:
    name = variable.removeprefix(PREFIX)
    return (
        name.startswith(_DEVELOPMENT_PREFIXES)
        or name in _SWITCHES
        or variable in installed_variables()
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib  # only an error pays for it

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def _warn_if_unknown(variable: str, own: Iterable[str]) -> None:
    if variable in _warned or _is_known_elsewhere(variable):
        return
    _warned.add(variable)
    hint = _nearest(variable, own)
    _log.warning("runwire: environment variable %s is not known and ignored.%s", variable, hint)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value.strip()


def _secret(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value.strip("\r\n")


def _path(value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError
    path = os.fspath(value)
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise ValueError
    return path


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else None
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def _bytes(value: object) -> int:
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


def _count(value: object) -> int:
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


def _ratio(value: object) -> float:
    number = _number(value)
    if number >= 1:
        raise ValueError
    return number


def _signal_names(value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)  # type: ignore[call-overload]
    names = tuple(_text(part).upper() for part in parts if part)
    for name in names:
        if not name.startswith("SIG") or not hasattr(signal, name):
            raise ValueError
    return names


def _one_of(words: tuple[str, ...], value: object) -> str:
    word = _text(value).lower()
    if word not in words:
        raise ValueError
    return word


def choice(*words: str) -> Kind:
    """Return the kind of a setting that is one of these lower-case words."""
    return Kind("one of " + ", ".join(words), functools.partial(_one_of, words))


TEXT: Final = Kind("text", _text)
SECRET: Final = Kind("text", _secret, is_secret=True)
PATH: Final = Kind("a path", _path)
FLAG: Final = Kind("true or false (1, 0, yes, no, on, off)", _flag)
BYTES: Final = Kind("a number of bytes of at least 1MiB, for example 2147483648 or 2GiB", _bytes)
COUNT: Final = Kind("a whole number, 0 or more", _count)
NUMBER: Final = Kind("a number, 0 or more", _number)
RATIO: Final = Kind("a number from 0 to below 1", _ratio)
SECONDS: Final = Kind("a number of seconds, 0 or more", _number)
SIGNALS: Final = Kind("comma separated signal names, for example SIGTERM,SIGUSR1", _signal_names)
