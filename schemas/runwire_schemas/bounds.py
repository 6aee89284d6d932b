"""Bounds check of Avro bytes before decoding: a walk that builds nothing.

fastavro allocates as much as a length claims and reads a negative length as "the rest". After this
walk every length is within the message, every array item is backed by bytes, and the record ends
where the message ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runwire_schemas.errors import DecodeError
from runwire_schemas.varint import read_long

# The largest message that our topics accept; writers cut at 512 KiB.
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
# A dead letter holds the whole rejected message, its key and the reason.
LETTER_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
# A point takes at least 9 bytes and a call without points is useless, so no valid array has more
# items. This bounds the Python objects that a crafted message can allocate.
ARRAY_ITEMS_MAX = MESSAGE_BYTES_MAX // 8

_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1
_WIDTHS = {"null": 0, "boolean": 1, "float": 4, "double": 8}

Skip = Callable[[bytes, int, "Budget"], int]


class Budget:
    """Array and map items that the rest of a message may hold; its size bounds them all."""

    __slots__ = ("items",)

    def __init__(self, items: int) -> None:
        self.items = items

    def take(self, count: int, *, room: int, width: int, at: int) -> None:
        """Pay for `count` items of at least `width` bytes. Raises: DecodeError when too many."""
        if count > ARRAY_ITEMS_MAX or count > self.items or count * width > room:
            raise DecodeError(f"count {count} at byte {at} is more than the message can hold")
        self.items -= count


def compile_check(schema: Any) -> Callable[[bytes, int], None]:
    """Return a function (message, start) that raises DecodeError unless the bytes fit `schema`.

    `schema` is plain Avro JSON as Python objects. Text is not decoded here.
    """
    skip = _compile(schema, {}, "")

    def check(data: bytes, at: int) -> None:
        try:
            end = skip(data, at, Budget(len(data)))
        except RecursionError:
            raise DecodeError("message is nested too deeply") from None
        if end != len(data):
            raise DecodeError(f"{len(data) - end} bytes follow after the end of the record")

    return check


def _compile(schema: Any, named: dict[str, Skip], namespace: str) -> Skip:
    if isinstance(schema, list):
        return _union([_compile(branch, named, namespace) for branch in schema])
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, (dict, list)):
        return _compile(kind, named, namespace)
    if kind in ("record", "error", "enum", "fixed"):
        return _compile_named(schema, named, namespace)
    if kind == "array":
        return _blocks(_compile(schema["items"], named, namespace), _width(schema["items"]))
    if kind == "map":
        return _blocks(_entry(_compile(schema["values"], named, namespace)), 2)
    if kind in _WIDTHS:
        return _fixed(_WIDTHS[kind])
    if kind in ("string", "bytes"):
        return _skip_text
    if kind in ("int", "long"):
        return _skip_int if kind == "int" else _skip_long
    full = kind if "." in kind or not namespace else f"{namespace}.{kind}"
    return _named(full, named)


def _compile_named(schema: dict[str, Any], named: dict[str, Skip], namespace: str) -> Skip:
    name = schema["name"]
    space = name.rpartition(".")[0] if "." in name else schema.get("namespace", namespace)
    full = name if "." in name or not space else f"{space}.{name}"
    if schema["type"] == "fixed":
        skip = _fixed(schema["size"])
    elif schema["type"] == "enum":
        skip = _enum(len(schema["symbols"]))
    else:
        fields: list[Skip] = []
        skip = _record(fields)
        named[full] = skip  # before the fields: a record may contain itself
        fields.extend(_compile(field["type"], named, space) for field in schema["fields"])
    named[full] = skip
    return skip


def _named(full: str, named: dict[str, Skip]) -> Skip:
    def skip(data: bytes, at: int, budget: Budget) -> int:
        return named[full](
            data, at, budget
        )  # resolved at the call: the record may still be under construction

    return skip


def _width(item: Any) -> int:
    """Return the smallest size of an array item in bytes, 0 when unknown."""
    kind = item["type"] if isinstance(item, dict) else item
    if isinstance(kind, str) and kind in _WIDTHS:
        return _WIDTHS[kind]
    return 1 if kind in ("int", "long", "string", "bytes") else 0


def _fixed(size: int) -> Skip:
    def skip(data: bytes, at: int, budget: Budget) -> int:  # noqa: ARG001 - one signature for all
        if at + size > len(data):
            raise DecodeError(f"value at byte {at} is cut off")
        return at + size

    skip.width = size  # type: ignore[attr-defined]
    return skip


def _skip_long(data: bytes, at: int, budget: Budget) -> int:  # noqa: ARG001
    return read_long(data, at)[1]


def _skip_int(data: bytes, at: int, budget: Budget) -> int:  # noqa: ARG001
    number, end = read_long(data, at)
    if not _INT_MIN <= number <= _INT_MAX:
        raise DecodeError(f"integer at byte {at} is longer than 32 bits")
    return end


def _skip_text(data: bytes, at: int, budget: Budget) -> int:  # noqa: ARG001
    size, start = read_long(data, at)
    if not 0 <= size <= len(data) - start:
        raise DecodeError(f"length {size} at byte {at} is not within the message")
    return start + size


def _entry(value: Skip) -> Skip:
    return lambda data, at, budget: value(data, _skip_text(data, at, budget), budget)


def _record(fields: list[Skip]) -> Skip:
    def skip(data: bytes, at: int, budget: Budget) -> int:
        for field in fields:
            at = field(data, at, budget)
        return at

    return skip


def _enum(symbols: int) -> Skip:
    def skip(data: bytes, at: int, budget: Budget) -> int:  # noqa: ARG001
        index, end = read_long(data, at)
        if not 0 <= index < symbols:
            raise DecodeError(f"enum symbol {index} at byte {at} does not exist")
        return end

    return skip


def _union(branches: list[Skip]) -> Skip:
    def skip(data: bytes, at: int, budget: Budget) -> int:
        index, start = read_long(data, at)
        if not 0 <= index < len(branches):
            raise DecodeError(f"union branch {index} at byte {at} does not exist")
        return branches[index](data, start, budget)

    return skip


def _blocks(item: Skip, width: int) -> Skip:
    bulk = getattr(item, "width", None)

    def skip(data: bytes, at: int, budget: Budget) -> int:
        while True:
            start = at
            count, at = read_long(data, at)
            if count == 0:
                return at
            stop = None
            if count < 0:  # a block size in bytes follows, which is checked too
                size, at = read_long(data, at)
                count, stop = -count, at + size
            budget.take(count, room=len(data) - at, width=width, at=start)
            if bulk is not None:
                at += count * bulk
            else:
                for _ in range(count):
                    at = item(data, at, budget)
            if stop is not None and at != stop:
                raise DecodeError(f"block at byte {start} is not as long as it says")

    return skip
