"""Generated events and messages for the schema tests."""

from __future__ import annotations

import dataclasses
import io
import json
import types
import typing
from typing import Any

import fastavro
import numpy as np
from hypothesis import strategies as st

from runwire_schemas import codec
from runwire_schemas.events import EVENTS, Event, MetricBatch

LONGS = st.integers(-(2**63), 2**63 - 1)
INTS = st.integers(-(2**31), 2**31 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# Small, around the borders of 1, 2 and 3 bytes, and anything.
NUMBERS = st.one_of(st.integers(-70, 70), st.integers(8180, 8200), st.integers(-9000, 9000), LONGS)
_INT_FIELDS = {"rank", "exit_code", "world_size", "files"}


def _of(hint: Any, name: str) -> st.SearchStrategy[Any]:
    if isinstance(hint, types.UnionType):
        inner = next(part for part in typing.get_args(hint) if part is not type(None))
        return st.none() | _of(inner, name)
    if typing.get_origin(hint) is list:
        return st.lists(_of(typing.get_args(hint)[0], name), max_size=3)
    if typing.get_origin(hint) is dict:
        return st.dictionaries(TEXT, _of(typing.get_args(hint)[1], name), max_size=3)
    if hint is int:
        return INTS if name in _INT_FIELDS else LONGS
    # NaN is for the metric batches: elsewhere it would only break the comparison.
    plain = {str: TEXT, bytes: st.binary(max_size=20), bool: st.booleans()}
    return plain[hint] if hint in plain else st.floats(allow_nan=False)


def plain_events(kind: str) -> st.SearchStrategy[Event]:
    """Events of any kind but metric."""
    hints = typing.get_type_hints(EVENTS[kind])
    return st.builds(EVENTS[kind], **{name: _of(hint, name) for name, hint in hints.items()})


@st.composite
def metric_batches(draw: st.DrawFn) -> MetricBatch:
    """Metric batches of 0 to 40 calls with 0 to 5 points each."""
    names = draw(st.lists(TEXT, min_size=1, max_size=draw(st.sampled_from([1, 3, 90]))))
    call_n = draw(st.lists(st.integers(0, 5), max_size=40))
    calls, points = len(call_n), sum(call_n)
    column = st.lists(NUMBERS, min_size=calls, max_size=calls)
    start = draw(st.integers(0, 2**40))
    rising = st.just([start + i for i in range(calls)])  # what real writers send
    if not points and draw(st.booleans()):
        names = []
    return MetricBatch(
        project=draw(TEXT),
        run_id=draw(TEXT),
        attempt=draw(TEXT),
        writer=draw(TEXT),
        rank=draw(INTS),
        batch_seq=draw(LONGS),
        names=names,
        call_seq=draw(column | rising),
        call_step=draw(column | rising),
        call_at_ms=draw(column | rising),
        call_n=call_n,
        name_idx=draw(
            st.lists(st.integers(0, max(len(names) - 1, 0)), min_size=points, max_size=points)
        ),
        value=draw(st.lists(st.floats(), min_size=points, max_size=points)),
    )


def events(kind: str) -> st.SearchStrategy[Event]:
    """Events of one kind."""
    return metric_batches() if kind == "metric" else plain_events(kind)


def fastavro_bytes(kind: str, event: Event) -> bytes:
    """What fastavro alone makes of an event: the oracle for our own encoder."""
    out = io.BytesIO()
    schema = fastavro.parse_schema(json.loads(codec.schema_json(kind)))
    fastavro.schemaless_writer(out, schema, as_record(event))
    return out.getvalue()


def as_record(event: Event) -> dict[str, Any]:
    """An event as the dict that Avro libraries take."""
    return {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}


def same(left: Any, right: Any) -> bool:
    """Equality that counts NaN as equal to itself, by its bits."""
    if isinstance(left, MetricBatch) and isinstance(right, MetricBatch):
        bits = np.array(left.value).tobytes() == np.array(right.value).tobytes()
        left, right = (dataclasses.replace(item, value=[]) for item in (left, right))
        return bits and left == right
    return bool(left == right)


@st.composite
def mutated(draw: st.DrawFn, message: bytes) -> bytes:
    """A message with a few bytes changed, cut, repeated or put in."""
    data = bytearray(message)
    for _ in range(draw(st.integers(1, 4))):
        # The header mostly stays whole, else nearly every case dies there.
        at = draw(
            st.integers(0, len(data)) if draw(st.integers(0, 9)) == 0 else st.integers(5, 400)
        )
        at = min(at, len(data))
        patch = draw(st.binary(max_size=11) | st.sampled_from(POISON))
        match draw(st.sampled_from(["replace", "insert", "delete", "cut"])):
            case "replace":
                data[at : at + len(patch)] = patch
            case "insert":
                data[at:at] = patch
            case "delete":
                del data[at : at + draw(st.integers(1, 9))]
            case _:
                del data[at:]
    return bytes(data)


# Counts and lengths that hurt a reader which believes them.
POISON = [
    b"\x00",
    b"\x01",  # -1
    b"\x01\x00",  # a block of -1 items in 0 bytes
    b"\x03\x04",  # a block of -2 items in 2 bytes
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # 2**62
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # -2**63
    b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # 2**63 - 1
    b"\xff" * 11,
    b"\x80\x00",  # 0 in two bytes
    b"\xfe\xff\xff\xff\x0f",  # 2**31 - 1
]
