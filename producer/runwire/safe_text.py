"""Text that is safe to record: JSON of any Python value, messages without secrets.

`json_text` never fails, never grows past its limit and is always valid JSON. `redact_text` and
`redact_argv` mask passwords, tokens and keys.
"""

from __future__ import annotations

import enum
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from runwire_disk.interrupts import reraise_interrupt

__all__ = [
    "TEXT_BYTES_MAX",
    "as_mapping",
    "clean_text",
    "json_text",
    "key_text",
    "name_text",
    "redact_argv",
    "redact_text",
    "scalar_text",
]

# One parameter must fit a row that people read; longer values belong in an artifact.
TEXT_BYTES_MAX = 64 * 1024
DEPTH_MAX = 8
# Arrays up to this many elements are written out, longer ones as their repr.
ELEMENTS_MAX = 1024
# Parts of one value that are converted: as many do not fit TEXT_BYTES_MAX.
NODES_MAX = TEXT_BYTES_MAX
# Classes whose text is their value. Named, not imported: no trainer pays for `decimal` or `uuid`.
_TEXT_IS_VALUE = frozenset(
    (
        ("uuid", "UUID"),
        ("decimal", "Decimal"),
        ("_pydecimal", "Decimal"),
        ("fractions", "Fraction"),
        ("datetime", "timedelta"),
        ("ipaddress", "_IPAddressBase"),
        ("pandas._libs.tslibs.period", "Period"),
        ("pandas._libs.interval", "Interval"),
    )
)


def json_text(value: object) -> str:
    """Return valid JSON for `value`.

    NaN and infinities become the strings "NaN", "Infinity", "-Infinity", dates ISO 8601; values
    without a JSON form become their repr; text beyond 64 KiB is cut with a note.
    """
    plain = _Plainer().plain(value, 0)
    try:
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
        size = len(text.encode("utf-8"))
    except (ValueError, TypeError, RecursionError, UnicodeEncodeError):
        # Lone surrogates: ASCII escapes keep them and stay valid UTF-8.
        text = json.dumps(_safe_repr(plain) if not isinstance(plain, str) else plain)
        size = len(text)
    if size <= TEXT_BYTES_MAX:
        return text
    return _cut(plain if isinstance(plain, str) else text, size)


def scalar_text(value: Any) -> str | None:
    """Return one value as plain text, None for collections and for objects without a text of use.

    Dates are ISO 8601, enums their text or name, numpy scalars the text of their Python value.
    Raises: whatever the methods of a user's class raise.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (bool, int, float)):
        return str(_builtin(value))
    if isinstance(value, os.PathLike):
        return os.fsdecode(os.fspath(value))
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", errors="backslashreplace")
    if _is_numpy(value) and value.shape == () and value.dtype.kind not in "MmO":
        return scalar_text(value.item())
    return _value_text(value)


def _value_text(value: Any) -> str | None:
    """Return the text of a date, exact number or id of the standard library or numpy, else None."""
    if isinstance(value, type):
        return None
    if _is_numpy(value):
        is_date = getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m")
        return str(value) if is_date and value.shape == () else None
    if callable(getattr(value, "isoformat", None)):
        return str(value.isoformat())
    if any((one.__module__, one.__name__) in _TEXT_IS_VALUE for one in type(value).__mro__):
        return str(value)
    return None


def _is_numpy(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "numpy"


def clean_text(text: str) -> str:
    """Return text that UTF-8 can carry: lone surrogates become escapes."""
    if text.isascii():
        return text
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _builtin(value: Any) -> Any:
    """Return a bool, int or float as exactly that type, without methods of a subclass."""
    if isinstance(value, bool):
        return value
    return int.__int__(value) if isinstance(value, int) else float.__float__(value)


def as_mapping(value: object) -> Mapping[str, Any] | None:
    """Return the fields of a mapping, dataclass, namespace, OmegaConf, pydantic or attrs object.

    None for anything else, also for one that fails when it is looked at. Nothing is imported: types
    are recognised by their attributes. A field that fails alone becomes a text that says so.
    """
    try:
        return _fields(value)
    except Exception as error:  # of a user's class
        reraise_interrupt(error)
        return None


def _fields(value: object) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return {key_text(k): v for k, v in _omegaconf(value).items()}
    if isinstance(value, type):
        return None
    if _is_omegaconf(value):
        return _fields(_omegaconf(value))
    fields = getattr(value, "__dataclass_fields__", None) or _attrs_names(value)
    if fields:
        return dict(_read_fields(value, fields))
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return _fields(dump())
    if type(value).__name__ in ("Namespace", "SimpleNamespace") and hasattr(value, "__dict__"):
        return {str(k): v for k, v in vars(value).items()}
    return None


def name_text(key: object) -> str:
    """Return a key as a name: of a str of any class its text, whatever its methods say.

    Raises: what the `__str__` of another class raises.
    """
    return str.__str__(key) if isinstance(key, str) else str(key)


def key_text(key: object) -> str:
    """Return the name that a key of a user's mapping stands for."""
    try:
        return clean_text(name_text(key))
    except Exception as error:
        reraise_interrupt(error)
        return f"<{type(key).__name__} whose text failed>"


def _read_fields(value: object, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    for name in names:
        try:
            yield name, getattr(value, name)
        except AttributeError:  # declared, but never set
            continue
        except Exception as error:
            reraise_interrupt(error)
            yield name, f"<cannot be read: {type(error).__name__}>"


def _attrs_names(value: object) -> list[str]:
    return [a.name for a in getattr(type(value), "__attrs_attrs__", ())]


def _is_omegaconf(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "omegaconf"


def _omegaconf(value: Any) -> Any:
    """Return an OmegaConf container with its interpolations resolved where they can be."""
    if not _is_omegaconf(value):
        return value
    import sys

    to_container: Callable[..., Any] = sys.modules["omegaconf"].OmegaConf.to_container
    try:
        return to_container(value, resolve=True)
    except Exception:  # an interpolation without a value: keep its text
        return to_container(value, resolve=False)


class _Plainer:
    """Conversion of one value to dict, list, str, int, float, bool or None; it always ends.

    What refers to itself and what is nested too deep is written as its repr; after NODES_MAX parts
    the rest is left out, since no text is that long.
    """

    def __init__(self) -> None:
        self._left = NODES_MAX
        self._above: set[int] = set()

    def plain(self, value: object, depth: int) -> Any:
        """Return the plain form of `value`, which is `depth` levels below the top."""
        self._left -= 1
        if value is None or type(value) in (bool, int, str):
            return value
        try:
            if isinstance(value, enum.Enum):
                return value.name
            if isinstance(value, float):
                return _float(_builtin(value))
            if isinstance(value, (str, int)):
                return str.__str__(value) if isinstance(value, str) else _builtin(value)
            if depth >= DEPTH_MAX or id(value) in self._above:
                return _safe_repr(value)
            self._above.add(id(value))
            try:
                return self._container(value, depth + 1)
            finally:
                self._above.discard(id(value))
        except Exception as error:  # properties and iterators of a user's class may do anything
            reraise_interrupt(error)
            return _safe_repr(value)

    def _container(self, value: object, inside: int) -> Any:
        fields = as_mapping(value)
        if fields is not None:
            return {k: self.plain(v, inside) for k, v in fields.items() if self._left > 0}
        if isinstance(value, (list, tuple)):
            return self._list(value, inside)
        if isinstance(value, (set, frozenset)):
            return sorted(self._list(value, inside), key=str)
        if isinstance(value, os.PathLike):
            return os.fsdecode(os.fspath(value))
        if isinstance(value, (bytes, bytearray)):
            return bytes(value[:TEXT_BYTES_MAX]).decode("utf-8", errors="backslashreplace")
        text = _value_text(value)
        if text is not None:
            return text
        array = _array(value)
        if array is not None:
            return self.plain(array, inside)
        if isinstance(value, type) or callable(value):
            module = getattr(value, "__module__", "")
            name = getattr(value, "__qualname__", "")
            return f"{module}.{name}" if name else _safe_repr(value)
        return _safe_repr(value)

    def _list(self, items: Iterable[object], inside: int) -> list[Any]:
        return [self.plain(item, inside) for item in itertools.islice(items, max(0, self._left))]


def _array(value: Any) -> Any:
    """Return the numbers of a numpy, torch or similar scalar or small array, else None."""
    shape = getattr(value, "shape", None)
    # A DTensor's item() returns only the local part; its repr is used instead.
    if shape is None or type(value).__name__ == "DTensor" or not hasattr(value, "tolist"):
        return None
    if math.prod(int(n) for n in shape) > ELEMENTS_MAX:
        return None
    is_dates = getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m")
    # Nanoseconds would come back as bare integers.
    return value.astype(str).tolist() if is_dates else value.tolist()


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _safe_repr(value: object) -> str:
    try:
        return repr(value)[:TEXT_BYTES_MAX]
    except Exception as error:
        reraise_interrupt(error)
        return f"<{type(value).__name__} whose repr failed>"


def _cut(text: str, size: int) -> str:
    note = f"... [cut by runwire: {size} bytes, at most {TEXT_BYTES_MAX} are kept]"
    # Escapes and multi-byte characters count up to 6 bytes; halve until the encoding fits.
    keep = TEXT_BYTES_MAX - len(note) - 2
    while True:
        encoded = json.dumps(text[:keep] + note)
        if len(encoded) <= TEXT_BYTES_MAX:
            return encoded
        keep //= 2


MASK = "[redacted]"
_SECRET_WORDS = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key"
    r"|credentials?|auth(?:orization)?"
)
_NAME = re.compile(rf"(?:^|[-_.])(?:{_SECRET_WORDS})(?:$|[-_.])", re.IGNORECASE)
_ASSIGNMENT = re.compile(
    rf"((?:\b|[-_.])(?:{_SECRET_WORDS})[\"']?\s*[=:]\s*[\"']?)(?:bearer\s+)?([^\s\"',;&}}]+)",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
# Tokens that are recognised by their prefix.
_KNOWN_TOKENS = re.compile(
    r"\b(?:hf_|ghp_|gho_|ghs_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA|ASIA)[A-Za-z0-9_\-]{12,}"
)
# Option names that contain a secret word but not a secret.
_HARMLESS = re.compile(
    r"(?:num|max|min|n|vocab|pad|eos|bos|unk|mask|sep|cls|special|new)[-_]?tokens?|tokens?[-_](?:per|id|count|len)"
    r"|tokens?$(?<=tokens)|tokenizer",
    re.IGNORECASE,
)


def redact_text(text: str) -> str:
    """Return `text` with passwords in URLs, values of secret names and known tokens masked."""
    text = _URL_PASSWORD.sub(rf"\1{MASK}@", text)
    text = _KNOWN_TOKENS.sub(MASK, text)
    return _ASSIGNMENT.sub(rf"\1{MASK}", text)


def redact_argv(argv: Sequence[str]) -> list[str]:
    """Return a command line with `--password=x`, `token=x` and secrets in URLs masked."""
    redacted: list[str] = []
    mask_next = False
    for word in argv:
        if mask_next and not word.startswith("-"):
            redacted.append(MASK)
            mask_next = False
            continue
        mask_next = False
        name, equals, _value = word.partition("=")
        secret = bool(_NAME.search(name.lstrip("-"))) and not _HARMLESS.search(name)
        if secret and equals:
            redacted.append(f"{name}={MASK}")
            continue
        mask_next = secret and word.startswith("-")
        redacted.append(redact_text(word))
    return redacted
