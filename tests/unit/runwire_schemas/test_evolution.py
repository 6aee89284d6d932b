"""Schemas evolve BACKWARD_TRANSITIVE: today's reader reads every version ever released."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

import runwire_schemas
from runwire_schemas import codec
from support.evolution import incompatibilities

ROOT = Path(runwire_schemas.__file__).parent
FILES = sorted((ROOT / "avro").glob("*.avsc"))
RELEASED = sorted((ROOT / "released").glob("*.avsc"))
OLD: dict[str, Any] = {
    "type": "record",
    "name": "Thing",
    "namespace": "n",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "count", "type": "int"},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "steps", "type": {"type": "array", "items": "long"}},
        {"name": "tags", "type": {"type": "map", "values": "string"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "key", "type": {"type": "fixed", "name": "Key", "size": 16}},
        {
            "name": "part",
            "type": {
                "type": "record",
                "name": "Part",
                "fields": [
                    {"name": "x", "type": "float"},
                    {"name": "next", "type": ["null", "Part"], "default": None},
                ],
            },
        },
    ],
}


@pytest.mark.parametrize("old", RELEASED, ids=lambda path: path.name)
def test_current_schemas_read_all_released_ones(old: Path) -> None:
    """The schema in force for a kind reads all that any released version wrote."""
    current = json.loads(codec.schema_json(old.name.partition(".")[0]))

    reasons = incompatibilities(current, json.loads(old.read_text(encoding="utf-8")))

    assert reasons == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_schema_files_follow_the_house_rules(path: Path) -> None:
    """Everything documented; optional fields are ["null", T] with default null; plain types."""
    schema = json.loads(path.read_text(encoding="utf-8"))

    assert fastavro.parse_schema(schema)
    assert schema["namespace"] == "runwire"
    assert schema["doc"]
    for field in schema["fields"]:
        assert field["doc"].endswith("."), field["name"]
        assert "logicalType" not in json.dumps(field["type"])
        if isinstance(field["type"], list):
            assert field["type"][0] == "null"
            assert len(field["type"]) == 2
            assert field["default"] is None


@pytest.mark.parametrize("old", RELEASED, ids=lambda path: path.name)
def test_released_files_never_change(old: Path) -> None:
    """A released schema stays in avro/ as it was: old messages are read with it."""
    assert (ROOT / "avro" / old.name).read_bytes() == old.read_bytes()


def field(schema: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in schema["fields"] if item["name"] == name)
    return found


def added(default: bool) -> Callable[[dict[str, Any]], None]:
    extra = {"name": "extra", "type": "string", **({"default": ""} if default else {})}
    return lambda schema: schema["fields"].append(extra)


def retyped(name: str, new: Any) -> Callable[[dict[str, Any]], None]:
    return lambda schema: field(schema, name).update(type=new)


def renamed(schema: dict[str, Any]) -> None:
    field(schema, "id")["name"] = "ident"


def renamed_with_alias(schema: dict[str, Any]) -> None:
    field(schema, "id").update(name="ident", aliases=["id"])


def part(schema: dict[str, Any]) -> None:
    field(schema, "part")["type"]["fields"].append({"name": "y", "type": "float"})


def record_name(schema: dict[str, Any]) -> None:
    schema["name"] = "Other"


def removed(schema: dict[str, Any]) -> None:
    schema["fields"].pop(0)


GOOD = {
    "nothing changed": lambda _: None,
    "field with default added": added(default=True),
    "field removed": removed,
    "renamed with alias": renamed_with_alias,
    "int became long": retyped("count", "long"),
    "string became optional": retyped("id", ["null", "string"]),
    "enum symbol added": retyped(
        "kind", {"type": "enum", "name": "Kind", "symbols": ["A", "B", "C"]}
    ),
    "enum symbol removed, default": retyped(
        "kind", {"type": "enum", "name": "Kind", "symbols": ["A"], "default": "A"}
    ),
}
BAD = {
    "field without default added": (added(default=False), "record.extra: .* without a default"),
    "field renamed": (renamed, "record.ident: not in the older schema"),
    "record renamed": (record_name, "renamed from n.Thing to n.Other"),
    "int became string": (
        retyped("count", "string"),
        "record.count: type changed from int to string",
    ),
    "optional became required": (retyped("note", "string"), "record.note: type changed from null"),
    "branch removed": (retyped("note", ["null", "long"]), "record.note: .* no branch of"),
    "item type": (
        retyped("steps", {"type": "array", "items": "int"}),
        r"record.steps\[\]: type changed from long to int",
    ),
    "value type": (
        retyped("tags", {"type": "map", "values": "long"}),
        "record.tags{}: type changed from string to long",
    ),
    "enum symbol removed": (
        retyped("kind", {"type": "enum", "name": "Kind", "symbols": ["A"]}),
        "symbols removed without a default: .'B'.",
    ),
    "enum renamed": (
        retyped("kind", {"type": "enum", "name": "Sort", "symbols": ["A", "B"]}),
        "enum renamed from Kind to Sort",
    ),
    "fixed size": (
        retyped("key", {"type": "fixed", "name": "Key", "size": 8}),
        "size changed from 16 to 8",
    ),
    "logical type": (
        retyped("count", {"type": "int", "logicalType": "date"}),
        "logical type changed from None to date",
    ),
    "nested record": (part, "record.part.y: .* without a default"),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD)
def test_compatible_change_of_a_schema_passes(change: Callable[[dict[str, Any]], None]) -> None:
    """The check accepts every change that Avro resolves."""
    new = copy.deepcopy(OLD)
    change(new)

    assert incompatibilities(new, OLD) == []


@pytest.mark.parametrize(("change", "reason"), BAD.values(), ids=BAD)
def test_incompatible_changes_are_named(
    change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    """Each breaking change gives one reason that says where and what."""
    new = copy.deepcopy(OLD)
    change(new)

    reasons = incompatibilities(new, OLD)

    assert len(reasons) == 1
    assert re.search(reason, reasons[0])


def test_a_removed_default_breaks_older_versions() -> None:
    """A field that came with a default can never lose it: the first version lacks the field."""
    second, third = copy.deepcopy(OLD), copy.deepcopy(OLD)
    added(default=True)(second)
    added(default=False)(third)

    assert incompatibilities(second, OLD) == []
    assert incompatibilities(third, second) == []
    assert incompatibilities(third, OLD)
