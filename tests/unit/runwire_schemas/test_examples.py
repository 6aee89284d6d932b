"""The golden messages: every schema has some, and they mean the same forever."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import fastavro
import pytest

import runwire_schemas
from runwire_schemas import codec, metric_decode
from runwire_schemas.events import EVENTS, Event, MetricBatch
from runwire_schemas.topics import TOPICS
from unit.runwire_schemas.strategies import same

ROOT = Path(runwire_schemas.__file__).parent
EXAMPLES = sorted((ROOT / "examples").rglob("*.json"))
SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def stem(path: Path) -> str:
    return f"{path.parent.parent.name}.{path.parent.name}"


def load(path: Path) -> tuple[Event, bytes]:
    """Read an example: bytes are hex, and doubles that JSON lacks are words."""
    example: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    fields = example["event"]
    event_class = EVENTS[path.parent.parent.name]
    for field in dataclasses.fields(event_class):
        if field.type == "bytes":
            fields[field.name] = bytes.fromhex(fields[field.name])
        if field.type == "list[float]":
            fields[field.name] = [SPECIAL.get(item, item) for item in fields[field.name]]
    return event_class(**fields), bytes.fromhex(example["hex"])


def example_id(path: Path) -> str:
    return f"{stem(path)}/{path.stem}"


@pytest.mark.parametrize("path", EXAMPLES, ids=example_id)
def test_example_decodes_to_its_event(path: Path) -> None:
    """The committed bytes mean the committed event."""
    event, message = load(path)

    assert same(event, codec.decode(message))
    assert codec.kind_of(message) == path.parent.parent.name


@pytest.mark.parametrize("path", EXAMPLES, ids=example_id)
def test_example_is_what_the_encoder_writes(path: Path) -> None:
    """Encoding the event gives the committed bytes, while its schema is the one in force."""
    event, message = load(path)
    if TOPICS[path.parent.parent.name].schema == stem(path):
        assert codec.encode(event) == message


@pytest.mark.parametrize("path", sorted((ROOT / "examples/metric").rglob("*.json")), ids=example_id)
def test_metric_examples_of_every_version_take_the_fast_path(path: Path) -> None:
    """The numpy decoder reads the golden batches too, also those of the last version."""
    event, message = load(path)

    (columns,) = metric_decode.decode_fast([message])
    assert columns is not None

    assert isinstance(event, MetricBatch)
    assert columns.points_before == event.points_before
    assert columns.points == len(event.value)
    assert list(columns.head.names) == event.names


@pytest.mark.parametrize("path", sorted((ROOT / "avro").glob("*.avsc")), ids=lambda p: p.name)
def test_every_schema_has_an_example_and_an_id(path: Path) -> None:
    """A schema without example or bundled id is not finished."""
    assert path.stem in {stem(example) for example in EXAMPLES}
    assert path.stem in {name for name, _ in codec.BUNDLED.values()}


@pytest.mark.parametrize("kind", EVENTS)
def test_events_mirror_their_schema(kind: str) -> None:
    """Class and record have the same fields; optional ones are those with a default."""
    record = fastavro.parse_schema(json.loads(codec.schema_json(kind)))
    assert isinstance(record, dict)
    event_class = EVENTS[kind]

    assert [field["name"] for field in record["fields"]] == [
        field.name for field in dataclasses.fields(event_class)
    ]
    assert {
        field["name"]: field["default"] for field in record["fields"] if "default" in field
    } == {
        field.name: field.default
        for field in dataclasses.fields(event_class)
        if field.default is not dataclasses.MISSING
    }
