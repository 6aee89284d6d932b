"""Every RUNWIRE_ variable is a row of one registered table, and the documents show the tables."""

import importlib
import re
import tomllib
from collections import defaultdict

import pytest

from house.checks import ROOT, python_files, table_rows
from runwire.settings import Settings
from runwire_consumers.clickhouse.engine_settings import EngineSettings
from runwire_consumers.settings import WorkerSettings
from runwire_schemas.connections.clickhouse import ClickHouseSettings
from runwire_schemas.connections.kafka import KafkaSettings, RegistrySettings
from runwire_schemas.connections.s3 import S3Settings
from runwire_schemas.connections.table import TABLES_GROUP, rows_of

VARIABLE = re.compile(r"\bRUNWIRE_[A-Z0-9_]*")
# Read outside of any table, before settings exist: `runwire.cli` and `connections.table`.
SWITCHES = {"RUNWIRE_DEBUG", "RUNWIRE_DISABLED"}
DOCUMENTS = {
    "producer/README.md": (Settings,),
    "consumers/README.md": (ClickHouseSettings, EngineSettings, WorkerSettings),
}


def registered() -> dict[str, type]:
    """The settings classes of the entry-point group, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tables = {}
    for name, place in project["entry-points"][TABLES_GROUP].items():
        module, _, attribute = place.partition(":")
        tables[name] = getattr(importlib.import_module(module), attribute)
    return tables


def definitions(tables: dict[str, type]) -> dict[str, set[tuple[object, object]]]:
    """By variable: kind and meaning in each table that has it. `shared` rows have the same."""
    found: dict[str, set[tuple[object, object]]] = defaultdict(set)
    for table in tables.values():
        for row in rows_of(table).values():
            found[row.env].add((row.kind, row.meaning))
    return found


def unknown_variables(text: str, known: set[str]) -> list[str]:
    """Variables that are no row; a name that ends with an underscore must begin one."""
    return [
        name
        for name in VARIABLE.findall(text)
        if name not in known and not (name.endswith("_") and any(k.startswith(name) for k in known))
    ]


def documented(tables: tuple[type, ...]) -> dict[str, list[str]]:
    """The rows of settings classes as the documents show them."""
    rows = [row for table in tables for row in rows_of(table).values()]
    return {row.env: [shown(row.default), row.meaning] for row in rows}


def shown(default: object) -> str:
    """A default as it would be written into the environment."""
    if default is None or default == "":
        return "unset"
    if isinstance(default, bool):
        return "`1`" if default else "`0`"
    if isinstance(default, tuple):
        return "`" + ",".join(str(part) for part in default) + "`"
    return f"`{default}`"


def as_table(rows: dict[str, list[str]]) -> str:
    return "\n".join(f"| `{name}` | " + " | ".join(cells) + " |" for name, cells in rows.items())


def test_every_variable_in_the_sources_is_a_row_or_a_switch() -> None:
    """A variable that code reads past the tables would be refused as unknown, or undocumented."""
    known = set(definitions(registered())) | SWITCHES
    folders = ("producer", "consumers", "schemas")
    found = {
        str(path.relative_to(ROOT)): names
        for path in python_files(ROOT, folders)
        if (names := unknown_variables(path.read_text(), known))
    }
    assert found == {}


def test_variable_that_is_no_row_is_reported() -> None:
    """The rule sees misspelt names and prefixes that begin no row."""
    known = {"RUNWIRE_DIR", "RUNWIRE_S3_BUCKET"}
    text = "RUNWIRE_DIR RUNWIRE_ RUNWIRE_S3_ RUNWIRE_S4_ RUNWIRE_DIRS RUNWIRE_S3"
    assert unknown_variables(text, known) == ["RUNWIRE_S4_", "RUNWIRE_DIRS", "RUNWIRE_S3"]


def test_variable_of_several_tables_has_one_definition() -> None:
    """The SDK shares its rows with the connection tables: kind and meaning are written once."""
    assert {n: rows for n, rows in definitions(registered()).items() if len(rows) > 1} == {}


def test_every_connection_table_is_registered() -> None:
    """A table that nobody registers is unknown to the check of `runwire.toml`."""
    connections = {ClickHouseSettings, KafkaSettings, RegistrySettings, S3Settings}
    assert connections <= set(registered().values())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_in_the_document_are_the_rows_of_its_tables(name: str) -> None:
    """Names, defaults and meanings are those of the code."""
    expected = documented(DOCUMENTS[name])
    text = (ROOT / name).read_text()
    assert table_rows(text, "RUNWIRE_") == expected, f"expected:\n{as_table(expected)}"


def test_every_registered_row_is_in_a_document() -> None:
    """No table is left out of the documents."""
    in_documents = {name for tables in DOCUMENTS.values() for name in documented(tables)}
    assert set(definitions(registered())) - in_documents == set()


def test_wrong_row_in_a_document_is_reported() -> None:
    """A changed default and a misspelt name both differ from the table."""
    rows = documented((Settings,))
    text = as_table(rows)
    assert table_rows(text, "RUNWIRE_") == rows
    assert table_rows(text.replace("`2147483648`", "`5`"), "RUNWIRE_") != rows
    assert table_rows(text.replace("| `RUNWIRE_DIR`", "| `RUNWIRE_DIRS`"), "RUNWIRE_") != rows
