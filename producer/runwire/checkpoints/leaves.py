"""Conversion of single values that torch's safe loader does not build into plain ones.

Values of a configuration become what `config` makes of them: a dataclass or namespace its fields, a
path its text, a member of an enum its name.
"""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import os
import sys
import uuid
from collections.abc import ItemsView, KeysView, ValuesView
from typing import Any, Final

from runwire.errors import CheckpointError
from runwire.safe_text import as_mapping

__all__ = ["UnstorableValue", "convert"]

_TEXTS: Final = (decimal.Decimal, fractions.Fraction, uuid.UUID)
_MOMENTS: Final = (datetime.date, datetime.time)  # a datetime is a date
_LISTS: Final = (list, collections.deque, array.array, range, KeysView, ValuesView, ItemsView)
# A longer range or array would become a list of more than a hundred megabytes.
_ITEMS_MAX: Final = 1_000_000
# Kinds of numpy's numbers, of arrays whose elements are values of Python, and of moments, whose
# elements would become bare counts of nanoseconds.
_NUMBERS, _OBJECTS, _INSTANTS = "biufc", "OUS", "M"


class UnstorableValue(CheckpointError):  # noqa: N818 - a verdict on the value
    """A value that a checkpoint cannot hold, with its place, as `extra['a'][0]`.

    `what` says what it is, for a list of several.
    """

    def __init__(self, place: str, what: str, advice: str = "") -> None:
        advice = advice or (
            "Save its numbers, texts and tensors instead, or its state_dict() if it has one"
        )
        super().__init__(
            f"{place} is {what}, which a checkpoint cannot hold: the loader builds only tensors, "
            f"plain numbers, texts and containers, and executes nothing. {advice}"
        )
        self.place, self.what = place, what


def convert(value: Any, place: str) -> Any:
    """Return a plain value that stands for `value`, or a container of values to convert in turn.

    Raises: UnstorableValue; whatever code of the value's class raises.
    """
    plain = _number_or_text(value)
    if plain is not None:
        return plain
    if type(value).__module__ == "numpy":
        return _numpy_value(value, place)
    if isinstance(value, _LISTS) and len(value) <= _ITEMS_MAX:
        return list(value)
    if isinstance(value, tuple):
        return tuple(value)
    if isinstance(value, (set, frozenset)):
        return set(value)
    if isinstance(value, memoryview):
        return bytes(value)
    fields = as_mapping(value)
    if fields is not None:
        return dict(fields)
    raise UnstorableValue(place, _kind(value))


def _number_or_text(value: Any) -> Any:
    """Return what a subclass of a plain type equals, or a usual form of a setting; else None."""
    base: Any
    if isinstance(value, str):
        return str.__str__(value)  # `str(...)` of an enum is its name, not what it equals
    for base in (int, float, complex, bytes, bytearray):
        if isinstance(value, base):  # enums and numpy scalars among them
            return base(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fsdecode(os.fspath(value))
    if isinstance(value, _TEXTS):
        return str(value)
    if isinstance(value, _MOMENTS):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return None


def _numpy_value(value: Any, place: str) -> Any:
    """Return a scalar or an array of numpy as a plain value, a tensor or a list."""
    numpy = sys.modules["numpy"]
    if isinstance(value, (numpy.datetime64, numpy.timedelta64)):
        return str(value)
    if isinstance(value, numpy.generic):
        item = value.item()
        if isinstance(item, numpy.generic) or value.dtype.kind == "V":
            raise UnstorableValue(place, _kind(value))  # a long double's item is one again
        return item
    if isinstance(value, numpy.ndarray):
        if value.dtype.kind in _NUMBERS:
            return _as_tensor(numpy, value, place)
        if value.dtype.kind in _INSTANTS:
            return value.astype(str).tolist()
        if value.dtype.kind in _OBJECTS:
            return value.tolist()
    raise UnstorableValue(place, _kind(value))


def _as_tensor(numpy: Any, values: Any, place: str) -> Any:
    """Return a copy of an array. Raises: UnstorableValue for numbers that torch does not have."""
    import torch

    try:
        # Files from another machine may have the other byte order.
        return torch.from_numpy(numpy.array(values, dtype=values.dtype.newbyteorder("=")))
    except (TypeError, ValueError):
        advice = "Convert it, for example with .astype(numpy.float64)"
        raise UnstorableValue(place, f"an array of {values.dtype}", advice) from None


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"
