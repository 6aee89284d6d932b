"""Drift of a migrated database: what is missing or different from the migrations, and its repair.

The expectation is read from the migrations themselves: the last definition of each view, and the
columns that `CREATE TABLE` and `ALTER TABLE` made. What others added stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from clickhouse_connect.driver.client import Client

from runwire_consumers.clickhouse import migrate
from runwire_consumers.clickhouse.client import CALL_ERRORS
from runwire_consumers.core.errors import Fatal

_CREATE = re.compile(
    r"CREATE (?P<kind>TABLE IF NOT EXISTS|MATERIALIZED VIEW IF NOT EXISTS|OR REPLACE VIEW)"
    r" \{database\}\.(?P<name>\w+) \{on_cluster\}\s*(?P<rest>.*)",
    re.DOTALL,
)
_ALTER = re.compile(
    r"ALTER TABLE \{database\}\.(?P<name>\w+) \{on_cluster\}\s*(?P<rest>.*)", re.DOTALL
)
_DROP = re.compile(r"DROP (?:TABLE|VIEW) (?:IF EXISTS )?\{database\}\.(?P<name>\w+)\b")
_TARGET = re.compile(r"TO \{database\}\.(?P<target>\w+)\s+AS\b(?P<query>.*)", re.DOTALL)
_VIEW = re.compile(r"AS\b(?P<query>.*)", re.DOTALL)
_COLUMN_CHANGE = re.compile(
    r"(?P<verb>ADD|MODIFY|DROP) COLUMN (?:IF (?:NOT )?EXISTS )?(?P<definition>.*)", re.DOTALL
)
_NAME = re.compile(r"\{database\}\.(\w+)")
_MODIFY_QUERY = re.compile(r"MODIFY QUERY\s+(?P<query>.*)", re.DOTALL)
# Statements that change no definition, and items of a table that are no columns.
_DATA = ("INSERT ", "OPTIMIZE ", "SYSTEM ")
_NO_COLUMN = re.compile(r"(?:INDEX|CONSTRAINT|PROJECTION|PRIMARY KEY)\b")
_NO_DEFINITION = re.compile(r"(?:ADD|DROP|MODIFY) (?:INDEX|CONSTRAINT|PROJECTION|SETTING|TTL)\b")
# The type of a column ends at one of these words.
_AFTER_TYPE = re.compile(
    r"\b(?:DEFAULT|MATERIALIZED|ALIAS|EPHEMERAL|CODEC|TTL|COMMENT|STATISTICS|SETTINGS|AFTER|FIRST)\b"
)
TABLE, COLUMN, VIEW, FLOW = "table", "column", "view", "materialized view"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as the migrations define it; `definition` has everything behind its name."""

    name: str
    type: str
    definition: str


@dataclass(slots=True, kw_only=True)
class Relation:
    """A table, a view or a materialized view, with the statements that make it as it should be.

    `query` is what a view selects; `target` is the table that a materialized view fills.
    """

    kind: str
    name: str
    statements: list[str]
    columns: dict[str, Column] = field(default_factory=dict)
    query: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One thing that is not as the migrations made it, and the statements that repair it."""

    kind: str
    name: str
    found: str
    is_missing: bool
    repair: list[str]

    @property
    def sentence(self) -> str:
        """The fact for people."""
        return f"{self.kind} {self.name} {self.found}"


def expected(texts: Iterable[str]) -> dict[str, Relation]:
    """Return what migrations with these texts make, by name, each after what it selects from.

    Raises: ValueError for a statement that this module cannot read.
    """
    relations: dict[str, Relation] = {}
    for text in texts:
        for statement in migrate.statements(text):
            if statement.guard is None:  # else it moves what an older version stored
                _follow(statement.text, relations)
    ordered: dict[str, Relation] = {}
    for name in relations:
        _order(name, relations, ordered)
    return ordered


def _order(name: str, relations: dict[str, Relation], ordered: dict[str, Relation]) -> None:
    """Add a relation behind those it refers to; views cannot refer to each other in a circle."""
    relation = relations[name]
    if name in ordered:
        return
    for other in (*_NAME.findall(relation.query), relation.target):
        if other in relations and other != name:
            _order(other, relations, ordered)
    ordered[name] = relation


def may_compare(client: Client) -> bool:
    """Return whether this user sees all tables and columns: others would seem to be missing."""
    try:
        database = client.database or "runwire"
        return bool(client.command(f"CHECK GRANT SHOW COLUMNS ON `{database}`.*"))
    except CALL_ERRORS:
        return True  # a server that cannot be asked this


def find_drift(client: Client) -> list[Drift]:
    """Return what differs in a database that has exactly the migrations of this version.

    Nothing for a user who may not see all of it.
    """
    known = migrate.migrations()
    if not may_compare(client):
        return []
    if migrate.pending(client) or migrate.newest(client) > known[-1].version:
        return []  # neither an older nor a newer database is as these migrations make it
    query = "SELECT name, as_select FROM system.tables WHERE database = currentDatabase()"
    selects = {str(name): str(select) for name, select in client.query(query).result_rows}
    query = "SELECT table, name, type FROM system.columns WHERE database = currentDatabase()"
    types = {(table, name): kind for table, name, kind in client.query(query).result_rows}
    drift: list[Drift] = []
    for relation in expected(one.text for one in migrate.starting(known)).values():
        if relation.name not in selects:
            repair = [*relation.statements, *_backfill(client, relation)]
            drift.append(
                Drift(
                    kind=relation.kind,
                    name=relation.name,
                    found="is missing",
                    is_missing=True,
                    repair=repair,
                )
            )
        elif relation.kind == TABLE:
            drift += _columns_drift(relation, types)
        elif _plain(client, relation.query) != _plain(client, selects[relation.name]):
            drift.append(_other_query(client, relation))
    return drift


def repair(client: Client, drift: Iterable[Drift], *, cluster: str | None = None) -> list[str]:
    """Repair these; return a sentence for each.

    Raises: Fatal when a statement is refused; those before it stay done.
    """
    drift = list(drift)
    if drift and not cluster and _is_replicated(client):
        raise Fatal(
            f"{'; '.join(one.sentence for one in drift)}: the tables of this database are "
            "replicated, so give --cluster NAME"
        )
    words = migrate.words(client.database or "runwire", cluster)
    done = []
    for one in drift:
        for statement in one.repair:
            migrate.execute(client, statement, words, f"repair of {one.kind} {one.name}")
        done.append(f"{one.sentence}: repaired")
    return done


def _follow(statement: str, relations: dict[str, Relation]) -> None:
    """Change what is expected as the statement changes a database."""
    if create := _CREATE.fullmatch(statement):
        _create(statement, create, relations)
    elif alter := _ALTER.fullmatch(statement):
        relation = relations[alter["name"]]
        if query := _MODIFY_QUERY.fullmatch(alter["rest"]):
            relation.query = query["query"]
            relation.statements = [_flow_statement(relation)]
            return
        for change in _split(alter["rest"]):
            _change_column(change, relation)
        relation.statements.append(statement)
    elif drop := _DROP.match(statement):
        relations.pop(drop["name"], None)
    elif not statement.startswith(_DATA):
        raise ValueError(f"drift.py cannot read the statement {statement[:80]!r}")


def _create(statement: str, create: re.Match[str], relations: dict[str, Relation]) -> None:
    name, rest = create["name"], create["rest"]
    if create["kind"].startswith("TABLE"):
        relation = Relation(kind=TABLE, name=name, statements=[statement])
        for item in _split(_in_parentheses(rest)):
            if not _NO_COLUMN.match(item):
                column = _column(item)
                relation.columns[column.name] = column
        relations.setdefault(name, relation)
        return
    match = (_VIEW if create["kind"].endswith("REPLACE VIEW") else _TARGET).fullmatch(rest)
    if match is None:
        raise ValueError(f"drift.py cannot read the definition of {name}")
    target = match.groupdict().get("target", "")
    relation = Relation(
        kind=FLOW if target else VIEW,
        name=name,
        statements=[statement],
        query=match["query"].strip(),
        target=target,
    )
    relations[name] = relation


def _change_column(change: str, relation: Relation) -> None:
    match = _COLUMN_CHANGE.fullmatch(change)
    if match is None:
        if _NO_DEFINITION.match(change):
            return
        raise ValueError(f"drift.py cannot read {change[:80]!r} of {relation.name}")
    column = _column(match["definition"])
    if match["verb"] == "DROP":
        relation.columns.pop(column.name, None)
    elif match["verb"] == "MODIFY" or column.name not in relation.columns:
        relation.columns[column.name] = column


def _columns_drift(relation: Relation, types: dict[tuple[str, str], str]) -> Iterable[Drift]:
    table = f"ALTER TABLE {{database}}.{relation.name} {{on_cluster}}"
    for column in relation.columns.values():
        found = types.get((relation.name, column.name))
        if found is not None and _squeeze(found) == _squeeze(column.type):
            continue
        verb = "ADD COLUMN IF NOT EXISTS" if found is None else "MODIFY COLUMN"
        yield Drift(
            kind=COLUMN,
            name=f"{relation.name}.{column.name}",
            found="is missing" if found is None else f"is {found}, ours is {column.type}",
            is_missing=found is None,
            repair=[f"{table} {verb} `{column.name}` {column.definition}"],
        )


def _other_query(client: Client, relation: Relation) -> Drift:
    statements = relation.statements
    if relation.kind == FLOW:
        alter = f"ALTER TABLE {{database}}.{relation.name} {{on_cluster}} MODIFY QUERY"
        statements = [f"{alter}\n{relation.query}", *_backfill(client, relation)]
    return Drift(
        kind=relation.kind,
        name=relation.name,
        found="selects something else than ours",
        is_missing=False,
        repair=statements,
    )


def _backfill(client: Client, relation: Relation) -> list[str]:
    """Return what fills the target with the rows that came while the materialized view was away.

    Targets only have aggregates that a repeat does not change, so all rows are taken.
    """
    if relation.kind != FLOW:
        return []
    # Columns by name: in a materialized view their order does not matter, in an insert it does.
    query = migrate.fill(relation.query, migrate.words(client.database or "runwire", None))
    names = ", ".join(f"`{row[0]}`" for row in client.query(f"DESCRIBE ({query})").result_rows)
    return [f"INSERT INTO {{database}}.{relation.target} ({names})\n{relation.query}"]


def _flow_statement(relation: Relation) -> str:
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {{database}}.{relation.name} {{on_cluster}}\n"
        f"TO {{database}}.{relation.target} AS\n{relation.query}"
    )


def _is_replicated(client: Client) -> bool:
    query = (
        "SELECT count() FROM system.tables WHERE database = currentDatabase() "
        "AND engine LIKE 'Replicated%'"
    )
    return bool(client.query(query).result_rows[0][0])


def _plain(client: Client, query: str) -> str:
    """Return a query in the server's own form, without what it changes when it stores one."""
    query = migrate.fill(query, migrate.words(client.database or "runwire", None))
    parameters = {"query": query}
    answer = client.query("SELECT formatQuerySingleLine(%(query)s)", parameters=parameters)
    text = str(answer.result_rows[0][0])
    return re.sub(r"[`_\s]", "", text).lower()  # dense_rank becomes denseRank


def _column(item: str) -> Column:
    match = re.match(r"`?(?P<name>\w+)`?\s*(?P<definition>.*)", item, re.DOTALL)
    if match is None:
        raise ValueError(f"drift.py cannot read the column {item[:80]!r}")
    definition = match["definition"].strip()
    end = next((m.start() for m in _AFTER_TYPE.finditer(definition)), len(definition))
    return Column(name=match["name"], type=definition[:end].strip(), definition=definition)


def _in_parentheses(text: str) -> str:
    """Return what is between the first parenthesis and the one that closes it."""
    depth, start = 0, text.index("(")
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return text[start + 1 : at]
    raise ValueError(f"drift.py finds no end of {text[:80]!r}")


def _split(text: str) -> list[str]:
    """Return the items of a list, split at commas outside of parentheses."""
    items, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            items.append(text[start:at].strip())
            start = at + 1
    return [item for item in (*items, text[start:].strip()) if item]


def _squeeze(text: str) -> str:
    return re.sub(r"\s", "", text)
