"""No SQL of the read side names a base table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import runwire_query

RELATION = re.compile(r"\b(?:FROM|JOIN|INTO|TABLE|IN)\s+`?([\w.{}]+)`?")
VIEW = re.compile(r"v_[a-z_]+")


def sql_texts(source: str) -> Iterator[str]:
    """String literals that hold a statement, with `{}` for each inserted value."""
    nodes = list(ast.walk(ast.parse(source)))
    pieces = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
            text = "".join(str(part) for part in parts)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in pieces
        ):
            text = node.value
        else:
            continue
        if re.search(r"\b(SELECT|FROM|JOIN|INSERT|ALTER|DELETE)\s", text):
            yield text


def base_tables(source: str) -> list[str]:
    """Relations in the statements of a module that are no documented views."""
    return [
        name
        for text in sql_texts(source)
        for name in RELATION.findall(text)
        if not VIEW.fullmatch(name)
    ]


def test_read_side_selects_from_views_only() -> None:
    """Dashboards and commands survive a change of tables, because the views are the contract."""
    (root,) = runwire_query.__path__
    found = {
        path.name: tables
        for path in Path(root).rglob("*.py")
        if (tables := base_tables(path.read_text()))
    }
    assert found == {}
    assert any("v_runs" in t for t in sql_texts((Path(root) / "api" / "runs.py").read_text()))


def test_statement_that_names_a_table_is_reported() -> None:
    """The rule sees plain texts, f-strings, joins and names that are inserted."""
    assert base_tables("sql = 'SELECT 1 FROM metrics'") == ["metrics"]
    assert base_tables("sql = f'SELECT {x} FROM v_runs JOIN runwire.runs USING y'") == [
        "runwire.runs"
    ]
    assert base_tables("sql = f'SELECT 1 FROM {table}'") == ["{}"]
