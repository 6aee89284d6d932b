"""Storage of calls whose names the live segment may not know yet: the cold half of `log`.

The caller holds the series' lock in every method here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring
from typing import Any

from runwire.metrics.values import PLAIN, beyond_exact, has_item
from runwire_disk.interrupts import reraise_interrupt
from runwire_disk.spool.format import LAYOUT, METRIC, METRIC_HEAD, WIDE
from runwire_disk.spool.segment import Segment
from runwire_disk.spool.series_writer import RecordTooLarge, SeriesClosed
from runwire_disk.spool.writer import SpoolWriter

# More layouts than this in one segment: names travel inside each record instead.
LAYOUTS_MAX = 4096
_FORGOTTEN = 1 << 62
_json = json.JSONEncoder().encode
_shapes: dict[int, struct.Struct] = {}  # by the number of values
_HEAD = "<QQqqQQ"  # METRIC_HEAD with its last two fields as one

Stamp = tuple[int, int, int]  # call number, at_ns, step


class Layout:
    """Names of one call shape, known to the live segment under a number."""

    __slots__ = (
        *("last", "low", "n", "names", "pack", "scalars", "segment", "size", "tag", "total"),
        "types",
    )

    total: Callable[[Iterable[Any], float], Any]
    segment: Segment

    def __init__(self, number: int, names: tuple[str, ...], types: tuple[type, ...]) -> None:
        self.names, self.n = names, len(names)
        self.tag = number | self.n << 32  # both fields of the record's head as one
        if (shape := _shapes.get(self.n)) is None:
            shape = _shapes[self.n] = struct.Struct(f"{_HEAD}{self.n}d")
        self.pack = shape.pack
        self.low = METRIC << 24 | shape.size
        self.size = shape.size + 8
        self.types = types
        self.total = sum if PLAIN.issuperset(types) else _unknown
        # Position, class and whether it may be on a GPU, of scalars that `item()` reads at once.
        self.scalars: tuple[tuple[int, Any, bool], ...] = ()
        self.last = b""

    def saw(self, values: Iterable[Any]) -> None:
        """Stop adding up values once some are not Python numbers; remember which are scalars.

        Adding up tensors would cost more than it saves, and start kernels on a GPU.
        """
        kinds = tuple(map(type, values))
        if not PLAIN.issuperset(kinds):
            self.total = _unknown
            self.scalars = tuple(
                (position, kind, kind.__module__ != "numpy")
                for position, kind in enumerate(kinds)
                if has_item(kind)
            )

    def numbers(self, values: Iterable[Any]) -> Iterable[Any] | None:
        """Return values that pack exactly, the scalars of tensors and arrays among them read.

        None leaves all of them to the sorter: it knows what else is a number, and what to refuse.
        """
        numbers = self._read(values) if self.scalars else values
        types = tuple(map(type, numbers))
        if types != self.types and not PLAIN.issuperset(types):
            return None
        return None if int in types and beyond_exact(numbers) else numbers

    def _read(self, values: Iterable[Any]) -> Iterable[Any]:
        """Return the values with scalars read where they are remembered and on this device."""
        numbers = list(values)
        try:
            for position, kind, has_device in self.scalars:
                value = numbers[position]
                if type(value) is kind and not (has_device and value.is_cuda):
                    number = value.item()
                    if type(number) in PLAIN:
                        numbers[position] = float(number)
        except Exception as exc:  # of more than one element, of a fake tensor
            reraise_interrupt(exc)
        return numbers

    def last_call(self) -> int:
        """Return the number of the newest call of this shape."""
        return int.from_bytes(self.last[8:16], "little") if self.last else -1

    def last_values(self) -> tuple[Any, ...]:
        """Return the values of the newest call; whole numbers as ints where ints were logged."""
        values = struct.unpack_from(f"<{self.n}d", self.last, METRIC_HEAD.size)
        return tuple(map(_as_type, values, self.types))


def _unknown(_values: Iterable[Any], _start: float) -> None:
    """Leave the decision to `Layout.numbers`."""


def _json_names(names: Iterable[str]) -> str:
    """Return a JSON array of names, in half the time that an encoder of `json` takes."""
    return f"[{', '.join(map(encode_basestring, names))}]"


def _as_type(value: float, kind: type) -> Any:
    return kind(value) if kind in (int, bool) and value.is_integer() else value


class MetricStore:
    """Layouts of the live segment, and the calls that add one."""

    def __init__(self, writer: SpoolWriter) -> None:
        self._writer = writer
        self._series = writer.series["metric"]
        self.layouts: dict[tuple[str, ...], Layout] = {}
        self._next_layout = 0
        self._last: dict[str, Any] = {}

    def add(self, stamp: Stamp, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        """Store one call, opening segments and teaching layouts as needed.

        Raises: OSError, RecordTooLarge, SeriesClosed when it cannot be stored; its points are
        counted then.
        """
        series, n = self._series, len(names)
        call, at_ns, step = stamp
        try:
            room = 128 + 8 * n
            if series.limit - series.state[0] < room:
                self._writer.admit(series)
            if series.make_room(room):
                self._forget_layouts()
            series.look_ahead(room)
            layout = self._layout(stamp, names, values)
            total = series.state[3] + n
            if layout is None:
                self._add_wide(stamp, names, values)
            else:
                packed = layout.pack(0, call, at_ns, step, total, layout.tag, *values)
                series.put(METRIC, packed[8:], call=call, points=n)
                layout.last = packed
        except (OSError, RecordTooLarge, SeriesClosed) as error:
            self._writer.count_dropped(self._writer.refused(series, error), n)
            raise

    def last(self) -> dict[str, Any]:
        """Return the last value of every metric."""
        merged = dict(self._last)
        used = [layout for layout in self.layouts.values() if layout.last]
        for layout in sorted(used, key=Layout.last_call):
            merged.update(zip(layout.names, layout.last_values(), strict=True))
        return merged

    def _add_wide(self, stamp: Stamp, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        call, at_ns, step = stamp
        total = self._series.state[3] + len(names)
        payload = (
            f'{{"call": {call}, "at_ns": {at_ns}, "step": {step}, "accepted": {total}, '
            f'"names": {_json_names(names)}, "values": {_json([float(v) for v in values])}}}'
        ).encode("utf-8", "replace")
        if self._series.make_room(len(payload) + 64):
            self._forget_layouts()
        self._series.put(WIDE, payload, call=call, points=len(names))
        self._last.update(zip(names, values, strict=True))

    def _layout(
        self, stamp: Stamp, names: tuple[str, ...], values: tuple[Any, ...]
    ) -> Layout | None:
        types = tuple(map(type, values))
        layout = self.layouts.get(names)
        # Ctrl-C right after a segment was opened leaves layouts of the old one.
        if layout is not None and layout.segment is self._series.segment:
            layout.types = types
            return layout
        if len(self.layouts) >= LAYOUTS_MAX:
            return None
        # A number is used once, even if an interrupt leaves it with names that nobody logs.
        self._next_layout += 1
        layout = Layout(self._next_layout, names, types)
        _, at_ns, step = stamp
        accepted = self._series.state[3]
        payload = (
            f'{{"id": {self._next_layout}, "names": {_json_names(names)}, "at_ns": {at_ns}, '
            f'"step": {step}, "accepted": {accepted}}}'
        ).encode("utf-8", "replace")
        if self._series.make_room(len(payload) + layout.size + 64):
            self._forget_layouts()
        self._series.put(LAYOUT, payload)
        assert self._series.segment is not None
        layout.segment = self._series.segment
        self.layouts[names] = layout
        return layout

    def _forget_layouts(self) -> None:
        """A new segment knows no layouts: keep their last values, then teach them anew."""
        self._last = self.last()
        for layout in self.layouts.values():
            # Another thread may have looked it up already: no segment has room for this size, so
            # its call comes back to `add` instead of using a number the segment does not know.
            layout.size = _FORGOTTEN
        self.layouts.clear()
