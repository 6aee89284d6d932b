"""Values of `log()` off the fast path: nested mappings, tensors, numpy scalars, refusals.

Nothing here imports numpy or torch: their values are recognised by their attributes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from runwire.safe_text import name_text
from runwire_disk.interrupts import reraise_interrupt

KEY_CHARS_MAX: Final = 250  # MLflow's limit, so that runs move between the two
DEPTH_MAX: Final = 8
FLOAT_EXACT_MAX: Final = 2**53

# Classes of Python numbers.
PLAIN: Final = frozenset((float, int, bool))
# Classes whose scalars `item()` turns into Python numbers and that need no other look. Only exactly
# these: a subclass may be masked or sharded, and other libraries' may wait for a device.
_ITEM_CLASSES: Final = frozenset(
    (
        *(("torch", "Tensor"), ("torch.nn.parameter", "Parameter")),
        *(("numpy", "ndarray"), ("numpy", "int64"), ("numpy", "uint64")),
    )
)
# numpy scalar classes that pack as doubles exactly; longdouble and complex are not among them.
_NUMPY_EXACT: Final = frozenset(
    ("float64", "float32", "float16", "int8", "int16", "int32", "uint8", "uint16", "uint32", "bool")
)


class Unloggable(TypeError):  # noqa: N818 - reads as the state of a value
    """A value that is neither number nor text; the message says what to pass instead."""


def unloggable(what: str, cause: Exception) -> Unloggable:
    """Return the error for a value that raised `cause`, whose own text may fail, too."""
    try:
        text = str(cause)
    except Exception as failure:
        reraise_interrupt(failure)
        text = ""
    name = "" if isinstance(cause, Unloggable) else type(cause).__name__
    error = Unloggable(": ".join(part for part in (what, name, text) if part))
    error.__cause__ = cause
    return error


def is_packable(kind: type) -> bool:
    """Return whether every value of exactly this type packs as a double without a second look."""
    if kind in PLAIN:
        return True
    return kind.__module__ == "numpy" and kind.__name__.rstrip("_") in _NUMPY_EXACT


def has_item(kind: type) -> bool:
    """Return whether scalars of exactly this type are read with `item()`, unless on a GPU."""
    return (kind.__module__, kind.__name__) in _ITEM_CLASSES


def is_plain(data: dict[Any, Any]) -> bool:
    """Return whether all names and values are stored as they are; a few passes in C tell."""
    values = data.values()
    kinds = set(map(type, values))
    return (
        PLAIN.issuperset(kinds)
        and set(map(type, data)) == {str}
        and max(map(len, data)) <= KEY_CHARS_MAX
        and not (int in kinds and beyond_exact(values))
    )


Refuse = Callable[[str, Exception], None]


def flatten(
    data: Mapping[str, Any], refuse: Refuse, *, prefix: str = "", above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) with nested keys joined by "/".

    `refuse` gets what cannot be followed: a name without text, a mapping that fails, refers to
    itself or is nested deeper than 8. Its siblings are not affected.
    """
    inside = (*above, id(data))
    for key, value in data.items():
        try:
            name = prefix + name_text(key)
            is_nested = isinstance(value, Mapping)
        except Exception as exc:  # of a user's class
            reraise_interrupt(exc)
            refuse(f"{prefix}<{type(key).__name__}>", unloggable("its name fails", exc))
            continue
        if not is_nested:
            yield name, value
        elif id(value) in inside or len(inside) > DEPTH_MAX:
            refuse(name, Unloggable(f"nested deeper than {DEPTH_MAX} levels, or refers to itself"))
        else:
            try:
                yield from flatten(value, refuse, prefix=name + "/", above=inside)
            except Exception as exc:
                reraise_interrupt(exc)
                refuse(name, unloggable("a mapping that fails", exc))


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
    if _is_masked(value):
        raise Unloggable("masked, so it has no value; leave it out, or fill it first")
    size = getattr(value, "size", None)
    count = value.numel() if callable(getattr(value, "numel", None)) else size
    if isinstance(count, int) and count != 1:
        raise Unloggable(
            f"{type(value).__name__} with {count} elements; "
            + (call_for(value) or "log a scalar such as its mean(), or log_histogram")
        )
    item = getattr(value, "item", None)
    try:
        return float(item() if callable(item) else value)
    except (TypeError, ValueError) as error:
        reraise_interrupt(error)
        advice = call_for(value) or "pass a float, an int or a 0-d array"
        raise Unloggable(f"{type(value).__name__} is not a number; {advice}") from None


# By the classes of wandb and of this package; their names say what they hold.
_CALLS: Final = {
    "Image": "log_image",
    "Histogram": "log_histogram",
    "Table": "log_table",
    "Artifact": "log_artifact",
    "Audio": "log_artifact",
    "Video": "log_artifact",
    "Html": "log_artifact",
}


def call_for(value: Any) -> str:
    """Return which call takes a value that `log` refuses, as a clause; empty if none does."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    call = _CALLS.get(kind.__name__, "") if package in ("wandb", "runwire") else ""
    shape = getattr(value, "shape", None)
    if package == "PIL":
        call = "log_image"
    elif hasattr(value, "savefig") or hasattr(getattr(value, "figure", None), "savefig"):
        call = "log_figure"
    elif callable(getattr(value, "to_dict", None)) and hasattr(value, "columns"):
        call = "log_table"
    elif isinstance(shape, tuple) and len(shape) in (2, 3) and min(shape) > 0:
        call = "log_histogram, log_image or log_table"
    elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
        call = "log_table"
    return f"use run.{call}(...) for it" if call else ""


def _is_masked(value: Any) -> bool:
    """Return whether a 0-d numpy value is masked: float() and item() would make it NaN or 0."""
    mask = getattr(value, "mask", None)
    return (
        type(value).__module__.startswith("numpy.ma")
        and getattr(mask, "size", 0) == 1
        and bool(mask)
    )


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
