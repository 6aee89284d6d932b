"""The lean decoder reads what the codec reads, and refuses what it refuses."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_consumers.core.batch import decode_record
from runwire_consumers.core.errors import Retryable
from runwire_consumers.core.source import Record
from runwire_consumers.objects.sink import decode_lean
from runwire_schemas import codec
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import Chunk
from support.shipments import content, shipped

LONGS = st.integers(-(2**63), 2**63 - 1)


def record(value: bytes, stream: str = "chunk") -> Record:
    return Record(stream, "p", 0, 0, 0, value)


@given(
    st.builds(
        Chunk,
        project=st.text(),
        run_id=st.text(),
        artifact=st.text(),
        sha256=st.text(),
        file_bytes=LONGS,
        index=LONGS,
        count=LONGS,
        digest=st.binary(),
        payload=st.binary(),
    )
)
def test_every_piece_is_decoded_equal_to_the_codec(chunk: Chunk) -> None:
    """The lean decoder returns the same events as the codec."""
    found = decode_lean(record(codec.encode(chunk)))
    assert found == chunk == decode_record(record(codec.encode(chunk)))
    assert isinstance(found, Chunk)
    assert isinstance(found.payload, memoryview)


def test_damage_is_refused_by_both_or_none(seed: int) -> None:
    """Cut, lengthened, changed anywhere: the same verdict, and never another error."""
    chosen = random.Random(seed)
    (chunk,) = shipped({"a": content(300, chosen)}).chunks
    whole = codec.encode(chunk)
    for _ in range(500):
        value = bytearray(whole)
        for _ in range(chosen.randrange(1, 4)):
            value[chosen.randrange(5, len(value))] = chosen.randrange(256)
        cut = bytes(value[: chosen.choice([len(value), chosen.randrange(5, len(value))])])
        for data in (cut, cut + b"\0"):
            verdicts = []
            for decode in (decode_lean, decode_record):
                try:
                    verdicts.append(decode(record(data)))
                except DecodeError:
                    verdicts.append(None)
            assert verdicts[0] == verdicts[1]


def test_other_streams_are_decoded_by_the_codec() -> None:
    """Records of other kinds take the ordinary decoder."""
    one = shipped({})
    assert decode_lean(record(codec.encode(one.event), "artifact")) == one.event
    with pytest.raises(DecodeError, match="in the stream"):
        decode_lean(record(codec.encode(one.event)))
    with pytest.raises(DecodeError, match="header"):
        decode_lean(record(b""))


@pytest.mark.parametrize("is_away", [False, True])
def test_piece_under_an_id_that_nobody_resolves_is_read_by_the_bundled_schema(
    *, is_away: bool
) -> None:
    """A registry that was reset, or does not answer, costs no piece of an artifact."""

    def resolve(schema_id: int) -> str | None:
        if is_away:
            raise Retryable(1.0, "the registry does not answer")
        return None

    (chunk,) = shipped({"a": b"content"}).chunks
    foreign = b"\0\0\0\0\x07" + codec.encode(chunk)[codec.HEADER_BYTES :]
    codec.resolve_with(resolve)
    try:
        assert decode_lean(record(foreign)) == chunk
    finally:
        codec.resolve_with(None)
