"""Sorting of one call's values into numbers, CUDA scalars and texts; others are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runwire.metrics.values import (
    FLOAT_EXACT_MAX,
    KEY_CHARS_MAX,
    flatten,
    is_cuda_scalar,
    is_packable,
    is_plain,
    to_float,
    unloggable,
)
from runwire_disk.interrupts import reraise_interrupt

Named = dict[str, Any]


class ValueSorter:
    """Sorts the values of a call that the fast path did not take."""

    def __init__(
        self,
        count_dropped: Callable[[str], None],
        report: Callable[..., None],
        on_text: Callable[[str, str, int], None],
    ) -> None:
        self._count_dropped, self._report, self._on_text = count_dropped, report, on_text

    def sort(self, data: Mapping[str, Any], step: int) -> tuple[Named, Named]:
        """Return (numbers to store now, CUDA scalars); texts are logged, other values reported."""
        if type(data) is dict and is_plain(known := dict(data)):
            return known, {}
        numbers: Named = {}
        cuda: Named = {}
        for key, value in flatten(data, self._no_number):
            if len(key) > KEY_CHARS_MAX:
                problem = ValueError(f"name of {len(key)} characters: {key[:60]}...")
                self._refuse("too_large", key[:60], problem)
                continue
            try:
                if isinstance(value, str):
                    self._on_text(key, str.__str__(value), step)
                elif value is None:
                    self._count_dropped("not_a_number")
                elif is_cuda_scalar(value) and value.numel() == 1:
                    cuda[key] = value
                else:
                    self._number(numbers, key, value)
            except Exception as exc:  # Unloggable, or anything from a user's class
                reraise_interrupt(exc)
                self._no_number(key, exc)
        return numbers, cuda

    def _number(self, numbers: dict[str, Any], key: str, value: Any) -> None:
        kind = type(value)
        if kind is float or (is_packable(kind) and kind is not int):
            numbers[key] = value
            return
        number = to_float(value)
        if kind is int and abs(value) > FLOAT_EXACT_MAX and int(number) != value:
            rounded = ValueError(f"{key!r}: {value} is stored as {number!r}")
            self._report("log: rounded", rounded, name=repr(key))
        numbers[key] = value if kind is int and abs(value) <= FLOAT_EXACT_MAX else number

    def _no_number(self, key: str, exc: Exception) -> None:
        self._refuse("not_a_number", key, unloggable(repr(key), exc))

    def _refuse(self, reason: str, key: str, exc: Exception) -> None:
        self._count_dropped(reason)
        self._report(f"log: {reason}", exc, name=repr(key))
