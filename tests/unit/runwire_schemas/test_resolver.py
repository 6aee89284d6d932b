"""Schema ids of a registry: the codec asks for them, and believes only what it can use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runwire_schemas import codec, metric_decode
from runwire_schemas.bounds import LETTER_BYTES_MAX, MESSAGE_BYTES_MAX
from runwire_schemas.errors import DecodeError, RegistryAway
from runwire_schemas.events import EVENTS, DeadLetter
from runwire_schemas.registry import with_id
from support.builders import metric_batch, param_event
from unit.runwire_schemas.strategies import same

EXAMPLES = Path(codec.__file__).parent / "examples"
NEWER = json.loads(codec.schema_json("param"))
NEWER["fields"].append({"name": "unit", "type": "string"})


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    codec.resolve_with(None)
    yield
    codec.resolve_with(None)


@pytest.fixture
def asked_ids() -> list[int]:
    """The ids asked for; a registry of three schemas answers."""
    texts = {
        1: json.dumps(json.loads(codec.schema_json("metric"))),
        2: json.dumps(NEWER),
        3: '{"type": "record", "name": "Foreign", "fields": []}',
        4: "no schema",
    }
    seen: list[int] = []

    def resolve(schema_id: int) -> str | None:
        seen.append(schema_id)
        if schema_id == 5:
            raise RegistryAway("away")
        return texts.get(schema_id)

    codec.resolve_with(resolve)
    return seen


def test_the_same_schema_under_another_id_takes_the_fast_path(
    asked_ids: list[int],
) -> None:
    """It goes by fingerprint, and each id is requested once."""
    message = codec.encode(metric_batch())
    expected = metric_decode.decode_metric_batch(message)
    for _ in range(2):
        (found,) = metric_decode.decode_fast([with_id(message, 1)])
        assert found is not None
        assert np.array_equal(found.value, expected.value)
    assert asked_ids == [1]


def test_newer_schema_is_read_in_the_present_shape(asked_ids: list[int]) -> None:
    """A field that this version does not have is skipped."""
    event = param_event()
    assert codec.decode(with_id(codec.encode(event), 2) + b"\x02m") == event
    assert codec.kind_of(with_id(codec.encode(event), 2)) == "param"
    assert asked_ids == [2]


@pytest.mark.parametrize(
    ("schema_id", "says"),
    [(3, "no record of runwire"), (4, "no Avro schema"), (6, "id 6 is unknown")],
)
def test_schema_that_cannot_be_used_is_a_decode_error(
    asked_ids: list[int], schema_id: int, says: str
) -> None:
    """Foreign records, broken schemas and unknown ids say that the message is bad."""
    with pytest.raises(DecodeError, match=says):
        codec.decode(with_id(codec.encode(param_event()), schema_id))
    assert asked_ids == [schema_id]


def test_missing_answer_of_the_registry_is_no_decode_error(asked_ids: list[int]) -> None:
    """The message may be good: the reader must retry instead of setting it aside."""
    message = with_id(codec.encode(metric_batch()) + b"\x00", 5)
    with pytest.raises(RegistryAway):
        metric_decode.decode_metric_batch(message)
    with pytest.raises(RegistryAway):
        codec.decode(message)


def test_bundled_id_is_never_requested_from_the_registry(asked_ids: list[int]) -> None:
    """Also not one of a newer runwire: the range is reserved."""
    codec.decode(codec.encode(param_event()))
    with pytest.raises(DecodeError, match="unknown"):
        codec.decode(with_id(codec.encode(param_event()), codec.BUNDLED_ID_BASE + 99))
    assert asked_ids == []


def test_dead_letter_about_the_largest_message_can_be_read() -> None:
    """Otherwise the worst records could be set aside and never inspected."""
    letter = DeadLetter(
        id="0" * 32,
        stream="metric",
        partition="metric/0",
        offset=1,
        last_offset=1,
        at_ns=1,
        reason="cannot be decoded",
        points=1,
        key=b"writer",
        value=bytes(MESSAGE_BYTES_MAX),
    )
    assert codec.decode(codec.encode(letter)) == letter
    longer = codec.encode(letter) + bytes(LETTER_BYTES_MAX)
    with pytest.raises(DecodeError, match="the limit is 33554432"):
        codec.decode(longer)


@pytest.mark.parametrize("shift", range(1, len(EVENTS)))
def test_ids_of_a_reset_registry_are_read_by_the_kind_of_their_topic(shift: int) -> None:
    """Each id names the schema of another kind now: every event of every kind is still read."""
    kinds = list(EVENTS)
    texts = {n: codec.schema_json(kinds[(n + shift) % len(kinds)]) for n in range(len(kinds))}
    codec.resolve_with(texts.get)
    for number, kind in enumerate(kinds):
        for path in sorted((EXAMPLES / kind).glob("*/*.json")):
            message = bytes.fromhex(json.loads(path.read_text("utf-8"))["hex"])
            found = codec.decode(with_id(message, number), kind=kind)
            assert same(found, codec.decode(message))


def test_points_under_an_id_of_another_kind_or_none_are_read(asked_ids: list[int]) -> None:
    """The registry answers with another schema, with none, with nonsense, or not at all."""
    message = codec.encode(metric_batch())
    expected = metric_decode.decode_metric_batch(message)
    for number in (2, 3, 4, 5, 6):
        found = metric_decode.decode_metric_batch(with_id(message, number))
        assert np.array_equal(found.value, expected.value)
    assert set(asked_ids) == {2, 3, 4, 5, 6}


def test_record_that_fits_no_bundled_schema_keeps_its_own_error(asked_ids: list[int]) -> None:
    """Lengths are checked strictly: a newer schema's record is never read as an older one."""
    longer = codec.encode(param_event()) + b"\x02m"
    assert codec.decode(with_id(longer, 2), kind="param")
    with pytest.raises(DecodeError, match="schema id 6 is unknown"):
        codec.decode(with_id(longer, 6), kind="param")
    with pytest.raises(RegistryAway, match="away"):
        codec.decode(with_id(longer, 5), kind="param")
