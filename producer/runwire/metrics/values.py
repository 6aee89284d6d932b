"""Values of `log()` off the fast path: nested mappings, tensors, numpy scalars, refusals.

Nothing here imports numpy or torch: their values are recognised by their attributes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

KEY_CHARS_MAX: Final = 250  # MLflow's limit, so that runs move between the two
DEPTH_MAX: Final = 8
FLOAT_EXACT_MAX: Final = 2**53

# numpy scalar classes that pack as doubles exactly; longdouble and complex are not among them.
_NUMPY_EXACT: Final = frozenset(
    ("float64", "float32", "float16", "int8", "int16", "int32", "uint8", "uint16", "uint32", "bool")
)


class Unloggable(TypeError):  # noqa: N818 - reads as the state of a value
    """A value that is neither number nor text; the message says what to pass instead."""


def is_packable(kind: type) -> bool:
    """Return whether every value of exactly this type packs as a double without a second look."""
    if kind in (float, int, bool):
        return True
    return kind.__module__ == "numpy" and kind.__name__.rstrip("_") in _NUMPY_EXACT


def flatten(
    data: Mapping[str, Any], *, depth: int = 0, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) with nested keys joined by "/".

    Raises: Unloggable for a nesting deeper than 8, which is also what a cycle looks like.
    """
    if depth > DEPTH_MAX:
        raise Unloggable(
            f"{prefix!r} is nested deeper than {DEPTH_MAX} levels (or refers to itself)"
        )
    for key, value in data.items():
        name = prefix + str(key)
        if isinstance(value, Mapping):
            yield from flatten(value, depth=depth + 1, prefix=name + "/")
        else:
            yield name, value


def is_cuda_scalar(value: Any) -> bool:
    """Return whether reading `value` would make the trainer wait for its GPU."""
    return bool(getattr(value, "is_cuda", False)) and callable(getattr(value, "numel", None))


def to_float(value: Any) -> float:
    """Return a scalar as float, NaN and infinities included.

    Raises: Unloggable saying what to pass instead; OverflowError beyond the range of a double.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, (float, int)):
        return float(value)
    if type(value).__name__ == "DTensor":
        return _dtensor(value)
    size = getattr(value, "size", None)
    count = value.numel() if callable(getattr(value, "numel", None)) else size
    if isinstance(count, int) and count != 1:
        raise Unloggable(
            f"{type(value).__name__} with {count} elements; log a scalar such as its mean()"
        )
    item = getattr(value, "item", None)
    try:
        return float(item() if callable(item) else value)
    except (TypeError, ValueError):
        raise Unloggable(
            f"{type(value).__name__} is not a number; pass a float, an int or a 0-d array"
        ) from None


def _dtensor(value: Any) -> float:
    # item() of a partial DTensor silently returns the local part; full_tensor() is a collective.
    if all(type(p).__name__ == "Replicate" for p in value.placements):
        return float(value.to_local().item())
    raise Unloggable("a sharded DTensor; call .full_tensor() on every rank and log its .item()")


def no_mapping(data: object) -> Unloggable:
    """Return the error for an argument that is not a mapping."""
    return Unloggable(f"log() takes a mapping of names to values, not {type(data).__name__}")


def beyond_exact(values: Iterable[Any]) -> bool:
    """Return whether an int among `values` might not fit a double exactly."""
    return any(type(v) is int and not -FLOAT_EXACT_MAX <= v <= FLOAT_EXACT_MAX for v in values)


def whole_step(step: Any) -> int | None:
    """Return a step as int. Raises: Unloggable unless it is a whole number."""
    if step is None or type(step) is int:
        return step
    try:
        whole = int(step)
    except (TypeError, ValueError):
        raise Unloggable(f"step must be an integer, not {type(step).__name__}") from None
    if whole != step:
        raise Unloggable(f"step must be a whole number, not {step!r}")
    return whole


def instant_ns(ts: Any) -> int:
    """Return a datetime or epoch seconds as epoch nanoseconds."""
    seconds = ts.timestamp() if hasattr(ts, "timestamp") else float(ts)
    return int(seconds * 1_000_000) * 1000
