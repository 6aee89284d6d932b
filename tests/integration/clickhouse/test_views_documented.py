"""The views of schemas/README.md, compared with those of the database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[3] / "schemas" / "README.md"
SECTION = README.read_text("utf-8").split("\n## Views\n", 1)[1].split("\n## ", 1)[0]
QUERIES = re.findall(r"```sql\n(.*?)```", SECTION, re.DOTALL)
# For those who join by key; said once for all views.
KEYS = {"attempt_key", "writer_key", "newest"}

pytestmark = pytest.mark.engine


def test_every_view_and_column_is_documented(feed: Any) -> None:
    """Each view has a row, each row a view, and each column named in the document exists."""
    rows = re.findall(r"^\| `(v_\w+)` \|[^|]*\|([^|]*)\|$", SECTION, re.MULTILINE)
    views = {name for (name,) in feed.rows("SHOW TABLES LIKE 'v\\_%'")}
    assert {view for view, _ in rows} == views
    for view, text in rows:
        columns = {name for (name, *_) in feed.rows(f"DESCRIBE TABLE {view}")}
        documented = set(re.findall(r"`(\w+)`", text))
        assert documented <= columns, view
        if view != "v_writers":  # has more, for rules to come
            assert columns - documented <= KEYS, view
        assert any(f"FROM {view}" in query for query in QUERIES), view


@pytest.mark.parametrize("query", QUERIES)
def test_example_queries_of_the_readme_run(feed: Any, query: str) -> None:
    """Every SQL example of the section runs on a migrated database."""
    feed.rows(query)
