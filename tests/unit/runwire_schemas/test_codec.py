"""The codec: events survive the way to bytes and back, foreign bytes end in DecodeError."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runwire_schemas import avro_records, codec
from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_schemas.errors import DecodeError, SchemaError
from runwire_schemas.events import EVENTS, LogEvent, MetricBatch, ParamEvent
from runwire_schemas.metric_encode import MetricParts
from runwire_schemas.topics import TOPICS
from runwire_schemas.varint import encode_long, encode_longs
from support.effort import examples
from unit.runwire_schemas import strategies as gen

KINDS = sorted(EVENTS)
AVRO = Path(codec.__file__).parent / "avro"
HEAD = {"project": "p", "run_id": "r", "attempt": "a", "writer": "w", "rank": 0}
LOG = LogEvent(**HEAD, seq=1, at_ns=2, stream="stdout", name="", level="", text="x")
BATCH = MetricBatch(
    **HEAD,
    batch_seq=1,
    names=["a", "b"],
    call_seq=[1, 2],
    call_step=[10, -11],
    call_at_ms=[10**12, 10**12 + 5],
    call_n=[2, 1],
    name_idx=[0, 1, 0],
    value=[1.0, float("inf"), 0.5],
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(60))
@given(data=st.data())
def test_event_survives_encoding_and_decoding(kind: str, data: st.DataObject) -> None:
    """decode(encode(event)) is the event, for every kind; the body is what fastavro writes."""
    event = data.draw(gen.events(kind))

    message = codec.encode(event)

    assert message[0] == 0
    assert message[5:] == gen.fastavro_bytes(kind, event)
    assert codec.kind_of(message) == kind
    assert codec.is_current(message, kind)
    assert gen.same(event, codec.decode(message))


@settings(max_examples=examples(100))
@given(batch=gen.metric_batches())
def test_batch_of_ready_bytes_is_the_message_of_fastavro(batch: MetricBatch) -> None:
    """A batch encoded from ready index and value bytes is byte for byte what fastavro writes."""
    fields = gen.as_record(batch)
    name_idx, value = fields.pop("name_idx"), fields.pop("value")

    parts = MetricParts(
        **fields,
        name_idx_bytes=encode_longs(name_idx),
        points=len(name_idx),
        value_bytes=struct.pack(f"<{len(value)}d", *value),
    )
    message = codec.encode_metric_parts(parts)

    assert message[5:] == gen.fastavro_bytes("metric", batch)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(150))
@given(data=st.data())
def test_mutated_message_decodes_or_is_refused(kind: str, data: st.DataObject) -> None:
    """A message with any damage gives an event or DecodeError."""
    message = data.draw(gen.mutated(codec.encode(data.draw(gen.events(kind)))))
    with contextlib.suppress(DecodeError):
        assert isinstance(codec.decode(message), EVENTS[codec.kind_of(message)])


@settings(max_examples=examples(200))
@given(kind=st.sampled_from(KINDS), body=st.binary(max_size=300), bare=st.booleans())
def test_random_bytes_decode_or_are_refused(kind: str, body: bytes, bare: bool) -> None:
    """Random bytes, with and without a good header, give an event or DecodeError."""
    header = b"" if bare else struct.pack(">BI", 0, codec.BUNDLED_ID_BASE + 1 + KINDS.index(kind))
    with contextlib.suppress(DecodeError):
        codec.decode(header + body)


@pytest.mark.parametrize("length", range(len(codec.encode(BATCH))))
def test_every_prefix_is_refused(length: int) -> None:
    """A message cut anywhere is refused, though fastavro alone would accept cut strings."""
    with pytest.raises(DecodeError):
        codec.decode(codec.encode(BATCH)[:length])


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "0 bytes"),
        (b"\x01\x7f\x00\x00\x03", "0x01"),
        (b"\x00\x00\x00\x00\x07rest", "schema id 7 is unknown"),
        (codec.encode(BATCH) + b"\x00", "follow after the end"),
        (codec.encode(LOG)[:5] + bytes(MESSAGE_BYTES_MAX), "the limit is"),
        (codec.encode(LOG)[:5] + encode_long(1 << 40) + b"p", "not within the message"),
        (codec.encode(LOG)[:5] + encode_long(-5) + b"p", "not within the message"),
        (codec.encode(LOG)[:5] + b"\x02\xff" + codec.encode(LOG)[7:], "utf-8"),
    ],
)
def test_refusals_say_what_is_wrong(message: bytes, says: str) -> None:
    """Each refusal names the fault."""
    with pytest.raises(DecodeError, match=says):
        codec.decode(message)


def batch_body(**changes: list[int] | list[float]) -> bytes:
    """A metric message as an encoder without any check would write it."""
    batch = dataclasses.replace(BATCH, **changes)  # type: ignore[arg-type]
    return codec.encode(BATCH)[:5] + gen.fastavro_bytes("metric", batch)


BAD_BATCHES = [
    ({"call_n": [2, 2]}, "disagree"),
    ({"call_n": [4, -1]}, "negative"),
    ({"call_step": [1]}, "different lengths"),
    ({"value": [1.0]}, "disagree"),
    ({"name_idx": [0, 1, 2]}, "outside"),
    ({"name_idx": [0, 1, -1]}, "outside"),
]


@pytest.mark.parametrize(("changes", "says"), BAD_BATCHES)
def test_inconsistent_batches_are_refused(changes: dict[str, list[int]], says: str) -> None:
    """Arrays that do not fit together are refused on both ways."""
    with pytest.raises(DecodeError, match=says):
        codec.decode(batch_body(**changes))
    with pytest.raises(SchemaError):
        codec.encode(dataclasses.replace(BATCH, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (dataclasses.replace(LOG, text=5), "text"),  # type: ignore[arg-type]
        (dataclasses.replace(LOG, at_ns=1 << 63), "at_ns"),
        (dataclasses.replace(LOG, rank=1 << 31), "rank"),
        (dataclasses.replace(LOG, text="\ud800"), "surrogates"),
        (dataclasses.replace(BATCH, rank=1 << 31), "rank"),
        (dataclasses.replace(BATCH, names=["a", "\ud800"]), "surrogates"),
        (dataclasses.replace(BATCH, call_seq=[1, 1 << 63]), "64-bit"),
        (dataclasses.replace(BATCH, value=[1.0, 2.0, "3"]), "fit"),  # type: ignore[list-item]
    ],
)
def test_events_that_do_not_fit_name_the_field(event: LogEvent, says: str) -> None:
    """An event with a value outside its schema is a SchemaError that says where."""
    with pytest.raises(SchemaError, match=says):
        codec.encode(event)


@pytest.mark.parametrize("schema_id", codec.BUNDLED)
def test_bundled_ids_never_change_meaning(schema_id: int) -> None:
    """The fingerprint beside each id is that of the file, so an id keeps its meaning forever."""
    stem, fingerprint = codec.BUNDLED[schema_id]

    assert fingerprint == avro_records.fingerprint_of((AVRO / f"{stem}.avsc").read_text())
    assert stem.partition(".")[0] in TOPICS


def test_kinds_without_schema_say_so() -> None:
    """A topic whose format comes later, and an unknown kind, give a sentence."""
    for kind in ("system", "nonsense"):
        with pytest.raises(SchemaError, match=kind):
            codec.schema_json(kind)


def test_messages_of_other_schema_versions_resolve() -> None:
    """A schema learned from a registry is read with the schema in force: extra fields go, new
    ones take their default; the same schema under a registry's id counts as current."""
    codec.resolve_with(None)
    same = json.loads(codec.schema_json("param"))
    newer = json.loads(codec.schema_json("param"))
    newer["fields"].append({"name": "unit", "type": "string"})
    assert codec.learn_schema(17, json.dumps(same)) == "param"
    assert codec.learn_schema(18, json.dumps(newer)) == "param"
    event = ParamEvent(**HEAD, seq=1, at_ns=2, key="lr", value="0.1")
    body = codec.encode(event)[5:]

    assert codec.is_current(struct.pack(">BI", 0, 17) + body, "param")
    assert event == codec.decode(struct.pack(">BI", 0, 17) + body)
    assert event == codec.decode(struct.pack(">BI", 0, 18) + body + b"\x02m")
    with pytest.raises(DecodeError):
        codec.decode(struct.pack(">BI", 0, 18) + body)


@pytest.mark.parametrize(
    ("schema_id", "text", "says"),
    [
        (codec.BUNDLED_ID_BASE + 200, "{}", "reserved"),
        (1, "not json", "no Avro schema"),
        (1, '"string"', "no record"),
        (1, "[]", "no record"),
        (1, "5", "no Avro schema"),
        (1, '{"type": "record", "name": "Param"}', "no Avro schema"),
        (1, '{"type": "record", "name": "Other", "fields": []}', "no record"),
    ],
)
def test_foreign_schemas_are_refused(schema_id: int, text: str, says: str) -> None:
    """A registry cannot teach us a reserved id or a schema that is none of ours."""
    with pytest.raises(SchemaError, match=says):
        codec.learn_schema(schema_id, text)


def test_an_id_keeps_its_first_schema() -> None:
    """The same id with another schema is refused."""
    codec.resolve_with(None)
    codec.learn_schema(5, codec.schema_json("param"))
    codec.learn_schema(5, codec.schema_json("param"))
    with pytest.raises(SchemaError, match="taken"):
        codec.learn_schema(5, codec.schema_json("log"))
