"""The columns of a metric batch are listed once; every other list is compared with them."""

from __future__ import annotations

import json

import pytest

from runwire_schemas import codec
from runwire_schemas.errors import SchemaError
from runwire_schemas.metric_encode import COLUMNS, require_columns


def test_columns_are_the_fields_of_the_avro_record_in_order() -> None:
    """Names, order and types of the table are those of the schema in force."""
    record = json.loads(codec.schema_json("metric"))
    types = {
        field["name"]: f"array of {field['type']['items']}"
        if isinstance(field["type"], dict)
        else field["type"]
        for field in record["fields"]
    }
    assert {name: kind.value for name, kind in COLUMNS.items()} == types
    assert list(COLUMNS) == list(types)


@pytest.mark.parametrize(
    ("listed", "difference"),
    [
        ([*COLUMNS, "call_flags"], "call_flags"),
        ([name for name in COLUMNS if name != "call_n"], "call_n"),
        ([*list(COLUMNS)[1:], "project"], "their order"),
    ],
)
def test_column_that_one_place_adds_alone_fails_on_import(
    listed: list[str], difference: str
) -> None:
    """The check that the modules run on import names the place and the column."""
    require_columns(COLUMNS, "a class")
    with pytest.raises(SchemaError, match=rf"a class and the columns .*{difference}"):
        require_columns(listed, "a class")
