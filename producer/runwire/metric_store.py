"""Stores calls whose names the live segment may not know yet: the cold half of the hot path.

The caller holds the series' lock in every method here.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from runwire.spool.segment import Segment
from runwire.spool.series import RecordTooLarge
from runwire.spool.writer import SpoolWriter
from runwire_schemas.spool.format import LAYOUT, METRIC, METRIC_HEAD, WIDE

_INTEGERS = frozenset((int,))
# More layouts than this in one segment: names travel inside each record instead.
LAYOUTS_MAX = 4096
_FORGOTTEN = 1 << 62

Stamp = tuple[int, int, int]  # call number, at_ns, step


class Layout:
    """Names of one call shape, known to the live segment under `number`."""

    __slots__ = (
        "has_int",
        "last",
        "last_call",
        "low",
        "n",
        "names",
        "number",
        "pack",
        "segment",
        "size",
        "types",
    )

    def __init__(self, number: int, names: tuple[str, ...], types: tuple[type, ...]) -> None:
        self.number, self.names, self.n = number, names, len(names)
        shape = struct.Struct(f"{METRIC_HEAD.format}{self.n}d")
        self.pack = shape.pack
        self.low = METRIC << 24 | shape.size
        self.size = shape.size + 8
        self.set_types(types)
        self.last: tuple[Any, ...] = ()
        self.last_call = -1
        self.segment: Segment | None = None

    def set_types(self, types: tuple[type, ...]) -> None:
        """Remember the types that the fast path accepts unseen."""
        self.types = types
        self.has_int = not _INTEGERS.isdisjoint(types)


class MetricStore:
    """Layouts of the live segment and the way new ones get there."""

    def __init__(self, writer: SpoolWriter) -> None:
        self._writer = writer
        self._series = writer.series["metric"]
        self.layouts: dict[tuple[str, ...], Layout] = {}
        self._next_layout = 0
        self._last: dict[str, Any] = {}

    def add(self, stamp: Stamp, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        """Store one call, opening segments and teaching layouts as needed.

        Raises: OSError, RecordTooLarge when it cannot be stored; its points are counted then.
        """
        series, n = self._series, len(names)
        call, at_ns, step = stamp
        try:
            room = 128 + 8 * n
            if series.limit - series.state[0] < room:
                self._writer.admit(series)
            if series.make_room(room):
                self._forget_layouts()
            layout = self._layout(stamp, names, values)
            total = series.state[3] + n
            if layout is None:
                self._add_wide(stamp, names, values)
            else:
                packed = layout.pack(0, call, at_ns, step, total, layout.number, n, *values)
                series.append(METRIC, packed[8:])
                layout.last, layout.last_call = values, call
            offset, seq, used, _ = series.state
            series.state = (offset, seq, used, total)
        except (OSError, RecordTooLarge) as error:
            self._writer.count_dropped(self._writer.refused(series, error), n)
            raise

    def last(self) -> dict[str, Any]:
        """Return the last value of every metric."""
        merged = dict(self._last)
        for layout in sorted(self.layouts.values(), key=lambda known: known.last_call):
            merged.update(zip(layout.names, layout.last, strict=False))
        return merged

    def _add_wide(self, stamp: Stamp, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        call, at_ns, step = stamp
        total = self._series.state[3] + len(names)
        wide = {"call": call, "at_ns": at_ns, "step": step, "accepted": total}
        named = {"names": names, "values": [float(v) for v in values]}
        payload = json.dumps({**wide, **named}, ensure_ascii=False).encode("utf-8", "replace")
        if self._series.make_room(len(payload) + 64):
            self._forget_layouts()
        self._series.append(WIDE, payload)
        self._last.update(zip(names, values, strict=True))

    def _layout(
        self, stamp: Stamp, names: tuple[str, ...], values: tuple[Any, ...]
    ) -> Layout | None:
        types = tuple(map(type, values))
        layout = self.layouts.get(names)
        # Ctrl-C right after a segment was opened leaves layouts of the old one.
        if layout is not None and layout.segment is self._series.segment:
            layout.set_types(types)
            return layout
        if len(self.layouts) >= LAYOUTS_MAX:
            return None
        layout = Layout(self._next_layout, names, types)
        _, at_ns, step = stamp
        taught = {"id": layout.number, "names": names, "at_ns": at_ns, "step": step}
        taught["accepted"] = self._series.state[3]
        payload = json.dumps(taught, ensure_ascii=False).encode("utf-8", "replace")
        if self._series.make_room(len(payload) + layout.size + 64):
            self._forget_layouts()
        self._series.append(LAYOUT, payload)
        self._next_layout += 1
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
