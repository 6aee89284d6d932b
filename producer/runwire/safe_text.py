"""Text that is safe to record: JSON of any Python value, messages without secrets.

`json_text` never fails, never grows past its limit and is always valid JSON. `redact_text` and
`redact_argv` mask passwords, tokens and keys.
"""

from __future__ import annotations

import enum
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["TEXT_BYTES_MAX", "as_mapping", "json_text", "redact_argv", "redact_text"]

# One parameter must fit a row that people read; longer values belong in an artifact.
TEXT_BYTES_MAX = 64 * 1024
DEPTH_MAX = 8
# Arrays up to this many elements are written out, longer ones as their repr.
ELEMENTS_MAX = 1024


def json_text(value: object) -> str:
    """Return valid JSON for `value`.

    NaN and infinities become the strings "NaN", "Infinity", "-Infinity"; values without a JSON form
    become their repr; text beyond 64 KiB is cut with a note.
    """
    plain = _plain(value, 0)
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


def as_mapping(value: object) -> Mapping[str, Any] | None:
    """Return the fields of a mapping, dataclass, namespace, OmegaConf, pydantic or attrs object.

    None for anything else. Nothing is imported: types are recognised by their attributes.
    """
    if isinstance(value, Mapping):
        return {str(k): v for k, v in _omegaconf(value).items()}
    if isinstance(value, type):
        return None
    if _is_omegaconf(value):
        return as_mapping(_omegaconf(value))
    fields = getattr(value, "__dataclass_fields__", None) or _attrs_names(value)
    if fields:
        return {name: getattr(value, name) for name in fields if hasattr(value, name)}
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return as_mapping(dump())
    if type(value).__name__ in ("Namespace", "SimpleNamespace") and hasattr(value, "__dict__"):
        return {str(k): v for k, v in vars(value).items()}
    return None


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


def _plain(value: object, depth: int) -> Any:
    """Return `value` as dict, list, str, int, float, bool or None."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, (str, int)):
        return value.__str__() if isinstance(value, str) else int(value)
    if depth >= DEPTH_MAX:  # cycles end here too
        return _safe_repr(value)
    try:
        return _container(value, depth)
    except Exception:  # properties, iterators and __getattr__ of a user's class may do anything
        return _safe_repr(value)


def _container(value: object, depth: int) -> Any:
    fields = as_mapping(value)
    if fields is not None:
        return {k: _plain(v, depth + 1) for k, v in fields.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, depth + 1) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(v, depth + 1) for v in value), key=str)
    if isinstance(value, os.PathLike):
        return os.fsdecode(os.fspath(value))
    if isinstance(value, (bytes, bytearray)):
        return bytes(value[:TEXT_BYTES_MAX]).decode("utf-8", errors="backslashreplace")
    array = _array(value)
    if array is not None:
        return _plain(array, depth + 1)
    if isinstance(value, type) or callable(value):
        module = getattr(value, "__module__", "")
        name = getattr(value, "__qualname__", "")
        return f"{module}.{name}" if name else _safe_repr(value)
    return _safe_repr(value)


def _array(value: Any) -> Any:
    """Return the numbers of a numpy, torch or similar scalar or small array, else None."""
    shape = getattr(value, "shape", None)
    # A DTensor's item() returns only the local part; its repr is used instead.
    if shape is None or type(value).__name__ == "DTensor" or not hasattr(value, "tolist"):
        return None
    if math.prod(int(n) for n in shape) > ELEMENTS_MAX:
        return None
    return value.tolist()


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _safe_repr(value: object) -> str:
    try:
        return repr(value)[:TEXT_BYTES_MAX]
    except Exception:
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
