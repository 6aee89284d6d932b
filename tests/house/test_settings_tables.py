"""The settings tables of the documents, compared with those of the code."""

from house.checks import ROOT, table_rows
from runwire.settings import Settings
from runwire_consumers.settings import WorkerSettings
from runwire_schemas.connections.table import rows_of


def documented(table: type) -> dict[str, list[str]]:
    """The rows of a settings class as the documents show them."""
    return {row.env: [shown(row.default), row.meaning] for row in rows_of(table).values()}


def sdk_rows() -> dict[str, list[str]]:
    return documented(Settings)


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


def test_settings_of_the_sdk_equal_their_document() -> None:
    """Names, defaults and meanings in producer/README.md are those of the code."""
    text = (ROOT / "producer" / "README.md").read_text()
    assert table_rows(text, "RUNWIRE_") == sdk_rows(), f"expected:\n{as_table(sdk_rows())}"


def test_wrong_row_of_a_settings_table_is_found() -> None:
    """A wrong default or name makes the comparison fail."""
    text = as_table(sdk_rows())
    assert table_rows(text, "RUNWIRE_") == sdk_rows()
    assert table_rows(text.replace("`2147483648`", "`5`"), "RUNWIRE_") != sdk_rows()
    assert table_rows(text.replace("| `RUNWIRE_DIR`", "| `RUNWIRE_DIRS`"), "RUNWIRE_") != sdk_rows()


def test_settings_of_the_worker_equal_their_document() -> None:
    """Names, defaults and meanings in consumers/README.md are those of the code."""
    text = (ROOT / "consumers" / "README.md").read_text()
    assert table_rows(text, "RUNWIRE_") == documented(WorkerSettings), (
        f"expected:\n{as_table(documented(WorkerSettings))}"
    )
