"""Tables and code blocks of schemas/README.md, compared with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import runwire_schemas
from runwire_schemas.codec import BUNDLED
from runwire_schemas.topics import TOPICS, Topic

SCHEMAS = Path(__file__).parents[3] / "schemas"
README = (SCHEMAS / "README.md").read_text(encoding="utf-8")
DAY_MS = 24 * 60 * 60 * 1000


def topic_row(topic: Topic) -> str:
    schema = f"`avro/{topic.schema}.avsc`" if topic.schema else "comes later"
    days = topic.retention_ms // DAY_MS
    return (
        f"| `{topic.name}` | {schema} | {topic.key} | {topic.partitions} | {days} days "
        f"| {topic.owner} | {topic.meaning} |"
    )


def table_rows(first_cell: str) -> list[str]:
    return [line for line in README.splitlines() if re.match(rf"\| {first_cell}", line)]


def test_topics_table_repeats_code() -> None:
    """The table of topics in the document is TOPICS, row by row."""
    assert table_rows("`runwire[.]") == [topic_row(topic) for topic in TOPICS.values()]


def test_configuration_table_covers_every_setting() -> None:
    """Each configuration of a topic is a row of the document, with its values in code spans."""
    rows = {row.split("`")[1]: row for row in table_rows("`[a-z.]+` [|] `") if "runwire" not in row}
    metric, letters = TOPICS["metric"], TOPICS["deadletter"]
    sizes = [(topic.configuration(brokers=n)) for topic in (metric, letters) for n in (1, 2, 3)]
    assert set(rows) | {"retention.ms"} == set(sizes[0])
    for name, row in rows.items():
        for configuration in sizes:
            assert f"`{configuration[name]}`" in row, name


def test_ids_table_repeats_code() -> None:
    """The table of bundled ids in the document is BUNDLED, row by row."""
    rows = [f"| {number} | `avro/{stem}.avsc` |" for number, (stem, _) in BUNDLED.items()]

    assert table_rows("2130") == rows


def test_files_in_document_exist() -> None:
    """Each file of the package that the document names exists."""
    named = set(re.findall(r"`((?:runwire_schemas|avro)/[\w./]+)`", README))
    root = Path(runwire_schemas.__file__).parent

    assert named
    for name in named:
        assert (SCHEMAS / name).exists() or (root / name).exists(), name


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_block_runs_as_printed(block: str) -> None:
    """Each Python block of the document runs unchanged."""
    exec(compile(block, "schemas/README.md", "exec"), {"__name__": "readme"})
