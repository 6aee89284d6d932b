"""The numpy decoder, with fastavro as its oracle."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
from collections.abc import Sequence

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_schemas import codec
from runwire_schemas.bounds import ARRAY_ITEMS_MAX
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import MetricBatch
from runwire_schemas.metric_columns import MetricColumns, MetricHead, columns_of
from runwire_schemas.metric_decode import decode_fast, decode_metric_batch
from runwire_schemas.varint import encode_long
from support.effort import examples
from unit.runwire_schemas import strategies as gen
from unit.runwire_schemas.test_codec import BAD_BATCHES, BATCH, LOG, batch_body

ARRAYS = ("seq", "step", "at_ms", "name_idx", "value")


def outcome(message: bytes, *, fast: bool) -> tuple[object, ...] | None:
    """Everything a decoder says about a message, as comparable values; None when refused."""
    try:
        if fast:
            columns = decode_metric_batch(message)
        else:
            event = codec.decode(message, kind="metric")
            if not isinstance(event, MetricBatch):
                return None
            columns = columns_of(event)
    except DecodeError:
        return None
    return comparable(columns)


def comparable(columns: MetricColumns) -> tuple[object, ...]:
    """Columns as plain values; arrays as dtype and bytes, so NaN compares by its bits."""
    arrays = (getattr(columns, name) for name in ARRAYS)
    shown = ((str(item.dtype), item.tobytes()) for item in arrays)
    return (columns.head, columns.batch_seq, columns.points_before, columns.points, *shown)


@settings(max_examples=examples(200), deadline=None)
@given(batch=gen.metric_batches())
def test_fast_path_agrees_with_fastavro(batch: MetricBatch) -> None:
    """What our encoder writes takes the fast path and comes out as fastavro reads it."""
    message = codec.encode(batch)

    (fast,) = decode_fast([message])
    assert fast is not None

    record = fastavro.schemaless_reader(
        io.BytesIO(message[5:]),
        fastavro.parse_schema(json.loads(codec.schema_json("metric"))),
        None,
    )
    assert comparable(fast) == comparable(columns_of(MetricBatch(**record)))  # type: ignore[arg-type]
    assert fast.points == len(batch.value)
    assert fast.seq.dtype == fast.step.dtype == fast.at_ms.dtype == np.int64
    assert fast.name_idx.dtype == np.int32
    assert fast.value.dtype == np.float64


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_decoders_agree_on_mutated_messages(data: st.DataObject) -> None:
    """On damaged messages both decoders return the same points or both refuse."""
    message = data.draw(gen.mutated(codec.encode(data.draw(gen.metric_batches()))))

    assert outcome(message, fast=True) == outcome(message, fast=False)


@settings(max_examples=examples(300), deadline=None)
@given(body=st.binary(max_size=200))
def test_decoders_agree_on_random_bytes(body: bytes) -> None:
    """Both decoders return the same points or both refuse."""
    message = codec.encode(BATCH)[:5] + body

    assert outcome(message, fast=True) == outcome(message, fast=False)


def test_every_prefix_is_refused() -> None:
    """A message cut anywhere is refused."""
    message = codec.encode(BATCH)
    for length in range(len(message)):
        with pytest.raises(DecodeError):
            decode_metric_batch(message[:length])


def test_points_are_expanded_per_call() -> None:
    """Each point carries the seq, step and time of its call."""
    columns = decode_metric_batch(codec.encode(BATCH))

    assert columns.seq.tolist() == [1, 1, 2]
    assert columns.step.tolist() == [10, 10, -11]
    assert columns.at_ms.tolist() == [10**12, 10**12, 10**12 + 5]
    assert columns.name_idx.tolist() == [0, 1, 0]
    assert columns.points == 3


def test_batch_without_points_has_empty_columns() -> None:
    """No points: empty columns."""
    empty = dataclasses.replace(
        BATCH, **{f.name: [] for f in dataclasses.fields(BATCH) if f.type.startswith("list")}
    )

    columns = decode_metric_batch(codec.encode(empty))

    assert columns.points == 0
    assert all(len(getattr(columns, name)) == 0 for name in ARRAYS)


@pytest.mark.parametrize(("changes", "says"), BAD_BATCHES)
def test_inconsistent_batches_are_refused(changes: dict[str, list[int]], says: str) -> None:
    """Arrays that do not fit together are refused with the same reason as by the codec."""
    with pytest.raises(DecodeError, match=says):
        decode_metric_batch(batch_body(**changes))


def test_message_of_another_kind_is_refused() -> None:
    """A good message of another kind is no metric batch."""
    with pytest.raises(DecodeError, match="log event"):
        decode_metric_batch(codec.encode(LOG))


def array_in_blocks(*blocks: bytes) -> bytes:
    """A metric message up to the array `names`, then the given bytes."""
    texts = b"".join(encode_long(1) + letter for letter in (b"p", b"r", b"a", b"w"))
    return codec.encode(BATCH)[:5] + texts + b"\x00\x02\x00" + b"".join(blocks)


# An array of two items "a" and "b" in the forms that Avro allows, and in some that it does not.
ONE_BLOCK = b"\x04\x02a\x02b\x00"
TWO_BLOCKS = b"\x02\x02a\x02\x02b\x00"
SIZED_BLOCK = b"\x03\x08\x02a\x02b\x00"
REST = b"\x00" * 6


@pytest.mark.parametrize("block", [ONE_BLOCK, TWO_BLOCKS, SIZED_BLOCK])
def test_other_block_forms_are_read(block: bytes) -> None:
    """Blocks that our encoder does not write, but Avro allows, are read by the careful path."""
    assert decode_metric_batch(array_in_blocks(block, REST)).head.names == ("a", "b")


@pytest.mark.parametrize(
    "block",
    [
        b"\x01\x00" * 50_000,  # ever more blocks that claim one item in no bytes
        b"\x03\x06\x02a\x02b\x00",  # a size that is not true
        b"\x03\xff\xff\x7f\x02a\x02b\x00",
        encode_long(-(2**63)) + b"\x00",
        encode_long(2**63 - 1),
        encode_long(2**21) + bytes(2**20),  # more items than bytes are left
        b"\x02" * 3,
    ],
)
def test_counts_are_not_believed(block: bytes) -> None:
    """A count beyond what the message can hold is refused before anything is built from it."""
    with pytest.raises(DecodeError):
        decode_metric_batch(array_in_blocks(block, REST))


@pytest.mark.parametrize("array", range(4, 6))
def test_huge_counts_of_numbers_are_refused(array: int) -> None:
    """The numpy arrays are not sized by an unchecked count either."""
    empty = b"\x00" * array
    for count in (2**40, 2**62, -(2**62)):
        with pytest.raises(DecodeError):
            decode_metric_batch(array_in_blocks(empty, encode_long(count), bytes(64)))


@pytest.mark.parametrize("array", range(2))
def test_arrays_beyond_any_honest_batch_are_refused(array: int) -> None:
    """Millions of one-byte items fit a message, but would cost gigabytes as objects."""
    count = ARRAY_ITEMS_MAX + 1
    message = array_in_blocks(b"\x00" * array, encode_long(count), bytes(count + 1), REST)

    with pytest.raises(DecodeError, match="more than the message can hold"):
        decode_metric_batch(message)


def test_a_registry_id_takes_the_fast_path() -> None:
    """The fast path goes by the schema's fingerprint, whatever number a registry gave it."""
    codec.resolve_with(None)
    codec.learn_schema(42, codec.schema_json("metric"))
    message = struct.pack(">BI", 0, 42) + codec.encode(BATCH)[5:]

    (columns,) = decode_fast([message])
    assert columns is not None
    assert columns.points == 3


def one_by_one(messages: Sequence[bytes]) -> list[tuple[object, ...] | None]:
    """What the decoder says about each message alone, None where it leaves it to the codec."""
    alone = [decode_fast([message])[0] for message in messages]
    return [None if columns is None else comparable(columns) for columns in alone]


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_messages_decoded_together_come_out_as_alone(data: st.DataObject) -> None:
    """Good ones, damaged ones and random bytes beside each other change nothing in one another."""
    good = gen.metric_batches().map(codec.encode)
    bad = good.flatmap(gen.mutated) | st.binary(max_size=80)
    messages = data.draw(st.lists(good | good | bad, max_size=8))
    together = decode_fast(messages)
    found = [None if columns is None else comparable(columns) for columns in together]
    assert found == one_by_one(messages)


@pytest.mark.parametrize("names", [64, 65, 96, 8_300])
def test_indexes_of_one_two_and_three_bytes_take_the_fast_path(names: int) -> None:
    """Columns whose integers differ in width are read side by side with even ones."""
    wide = dataclasses.replace(
        BATCH,
        names=[f"m{i}" for i in range(names)],
        call_seq=[62, 63, 64, 65],
        call_step=[-65, -1, 0, 2**62],
        call_at_ms=[0, 1, 2, 3],
        call_n=[names] * 4,
        name_idx=[*range(names)] * 4,
        value=[0.5] * (4 * names),
    )
    messages = [codec.encode(batch) for batch in (BATCH, wide, BATCH)]
    together = decode_fast(messages)
    assert None not in together
    assert [comparable(c) for c in together if c] == one_by_one(messages)
    assert together[1] is not None
    assert comparable(together[1]) == comparable(columns_of(wide))


def test_points_of_a_slice_are_those_of_the_whole() -> None:
    """Every slice of a batch has the points of its places, also within a call."""
    columns = decode_metric_batch(codec.encode(BATCH))
    for start in range(columns.points):
        for stop in range(start + 1, columns.points + 1):
            part = columns.sliced(slice(start, stop))
            for name in ARRAYS:
                whole = getattr(columns, name)[start:stop]
                assert getattr(part, name).tolist() == whole.tolist()


def test_names_of_writers_are_kept_up_to_a_number_of_bytes() -> None:
    """Heads are shared while a writer sends the same names, and let go when all are too long."""

    def head_of(writer: str, names: list[str]) -> MetricHead:
        batch = dataclasses.replace(BATCH, writer=writer, names=names)
        return decode_metric_batch(codec.encode(batch)).head

    first = head_of("w", BATCH.names)
    assert head_of("w", BATCH.names) is first
    long = "x" * (12 * 1024 * 1024)
    for number in range(4):
        head_of(f"of-long-names-{number}", [*BATCH.names, long])
    again = head_of("w", BATCH.names)
    assert again == first
    assert again is not first


OLD_ID = next(number for number, (stem, _) in codec.BUNDLED.items() if stem == "metric.v1")


def in_version_1(batch: MetricBatch) -> bytes:
    """A batch as agents of the last version send it."""
    schema = fastavro.parse_schema(json.loads(codec.schema_versions("metric")[0]))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, gen.as_record(batch))
    return struct.pack(">BI", 0, OLD_ID) + out.getvalue()


@settings(max_examples=examples(60), deadline=None)
@given(batches=st.lists(gen.metric_batches(), min_size=1, max_size=4))
def test_messages_of_both_versions_beside_each_other_take_the_fast_path(
    batches: list[MetricBatch],
) -> None:
    """During an update agents of both versions fill one topic."""
    messages = [write(b) for b in batches for write in (codec.encode, in_version_1)]
    found = decode_fast(messages)
    assert None not in found
    assert [comparable(columns) for columns in found if columns] == [
        comparable(columns_of(dataclasses.replace(batch, points_before=before)))
        for batch in batches
        for before in (batch.points_before, -1)
    ]
