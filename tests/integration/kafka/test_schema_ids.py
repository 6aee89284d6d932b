"""The worker's decoder with a schema registry, answering and unreachable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from runwire_consumers.core.batch import decode_record
from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka import schema_ids
from runwire_schemas import codec
from runwire_schemas.errors import DecodeError
from runwire_schemas.events import EVENTS
from runwire_schemas.metric_decode import MetricColumns
from runwire_schemas.registry import Registry as RegistryClient
from runwire_schemas.registry import with_id
from support.builders import metric_batch, record
from support.servers import Registry

BATCH = record(metric_batch(3), 0)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    codec.resolve_with(None)
    yield
    schema_ids.resolve_with(None)


def test_decoder_reads_an_id_from_the_registry(registry: Registry, topic_prefix: str) -> None:
    """A new worker reads ids of the registry; a newer schema it does not know is a dead letter."""
    producer = RegistryClient(registry.url, prefix=topic_prefix)
    for kind in EVENTS:
        producer.register(kind)
    number = producer.ids()["metric"]
    schema_ids.resolve_with(RegistryClient(registry.url, prefix=topic_prefix))
    found = decode_record(replace(BATCH, value=with_id(BATCH.value, number)))
    assert isinstance(found, MetricColumns)
    assert found.points == 6
    with pytest.raises(DecodeError, match="schema id 999999 is unknown"):
        decode_record(replace(BATCH, value=with_id(BATCH.value + b"\x00", 999_999)))


def test_worker_waits_while_the_registry_is_unreachable() -> None:
    """Only messages that no bundled schema fits come again; all others are read meanwhile."""
    schema_ids.resolve_with(RegistryClient("http://127.0.0.1:1"))
    assert decode_record(BATCH)
    assert decode_record(replace(BATCH, value=with_id(BATCH.value, 1)))
    with pytest.raises(Retryable, match="does not answer"):
        decode_record(replace(BATCH, value=with_id(BATCH.value + b"\x00", 1)))
