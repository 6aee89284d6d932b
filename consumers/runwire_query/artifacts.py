"""Artifacts as `runwire artifact` shows them: the store's word, joined with that of the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runwire_query import lineage
from runwire_query.connection import Reader
from runwire_query.storage import tell_damaged
from runwire_query.text import words
from runwire_query.text.table import format_table, terminal_width

if TYPE_CHECKING:
    from runwire_store.catalog import Catalog, Version


def listed(
    catalog: Catalog,
    directory: str | None,
    *,
    project: str | None,
    run_id: str | None,
    name: str | None,
    kind: str | None,
) -> list[dict[str, Any]]:
    """Versions in the store, newest first, and what ClickHouse knows to be on its way.

    `used_by` is None when ClickHouse could not be asked.
    """
    found = catalog.artifacts(project, run_id=run_id, name=name, type=kind)
    tell_damaged(found.damaged)
    rows = [row_of(version) for version in found]

    def ask(
        reader: Reader,
    ) -> tuple[dict[tuple[str, str], list[str]], list[dict[str, Any]]]:
        return lineage.uses(reader, project), lineage.unfinished(
            reader, project=project, run_id=run_id, kind=kind
        )

    answer = lineage.asked(directory, ask, lost="lineage and what is still on its way")
    if answer is not None:
        uses, unfinished = answer
        for row in rows:
            row["used_by"] = uses.get((row["name"], row["sha256"]), [])
        # The store is the newer truth: an event may be on its way for seconds.
        there = {version.manifest.artifact for version in found}
        rows += [
            _waiting(row)
            for row in unfinished
            if row["artifact"] not in there and name in (None, row["name"])
        ]
    return sorted(rows, key=lambda row: str(row["created_at"]), reverse=True)


def row_of(version: Version) -> dict[str, Any]:
    """One version as JSON."""
    manifest = version.manifest
    return {
        "project": manifest.project,
        "name": manifest.name,
        "version": version.number,
        "aliases": list(version.aliases),
        "type": manifest.type,
        "state": "complete",
        "reason": None,
        "run_id": manifest.run_id,
        "rank": manifest.rank,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "sha256": manifest.digest,
        "created_at": words.of_ns(manifest.created_at_ns).isoformat(),
        "route": manifest.route,
        "artifact": manifest.artifact,
        "used_by": None,
    }


def _waiting(row: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in row.items() if name != "logged_at"}
    return {
        **known,
        "version": None,
        "aliases": [],
        "sha256": "",
        "created_at": words.as_utc(row["logged_at"]).isoformat(),
        "used_by": [],
    }


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns for people; the project only where there are several."""
    now = datetime.now(UTC)
    many = len({row["project"] for row in rows}) > 1
    cells = [
        (
            *([row["project"]] if many else []),
            row["name"],
            "-" if row["version"] is None else f"v{row['version']}",
            ",".join(row["aliases"]) or "-",
            row["type"],
            _state(row),
            words.byte_size(row["bytes"]),
            row["run_id"],
            "?" if row["used_by"] is None else str(len(row["used_by"])),
            f"{words.age(datetime.fromisoformat(row['created_at']), now)} ago",
        )
        for row in rows
    ]
    project = ["project"] if many else []
    header = (
        *project, "name", "version", "aliases", "type", "state", "size", "run", "used by", "logged"
    )  # fmt: skip
    right = [name in {"size", "used by", "logged"} for name in header]
    return format_table(header, cells, right=right, width=terminal_width())


def _state(row: Mapping[str, Any]) -> str:
    return f"{row['state']}: {row['reason']}" if row["reason"] else str(row["state"])


def page(version: Version, directory: str | None, store: str) -> dict[str, Any]:
    """Everything about one version; `used_by` and `made_from` are None without ClickHouse."""
    manifest = version.manifest

    def ask(reader: Reader) -> tuple[list[str], list[dict[str, Any]]]:
        uses = lineage.uses(reader, manifest.project)
        made_from = lineage.used_by(reader, manifest.project, manifest.run_id)
        return uses.get((manifest.name, manifest.digest), []), made_from

    answer = lineage.asked(directory, ask, lost="lineage")
    used_by, made_from = (None, None) if answer is None else answer
    return {
        **row_of(version),
        "used_by": used_by,
        "made_from": made_from
        and [{**row, "used_at": words.instant(row["used_at"])} for row in made_from],
        "metadata": dict(manifest.metadata),
        "manifest": f"{store}/{manifest.key}",
        "content": [
            {"path": e.path, "bytes": e.size, "sha256": e.sha256, "uri": e.uri}
            for e in manifest.files
        ],
    }


FILES_MAX = 30  # a page; --json has all


def as_page(shown: Mapping[str, Any]) -> str:
    """The page for people."""
    aliases = f"  ({', '.join(shown['aliases'])})" if shown["aliases"] else ""
    used_by, made_from = shown["used_by"], shown["made_from"]
    lines = [
        f"artifact  {shown['name']}:v{shown['version']}{aliases}",
        f"project   {shown['project']}",
        f"type      {shown['type']}",
        f"size      {words.byte_size(shown['bytes'])} in {shown['files']} file(s)",
        f"sha256    {shown['sha256']}",
        f"stored    {shown['manifest']}",
        f"logged    {shown['created_at'][:19]}Z by run {shown['run_id']}, rank {shown['rank']}",
    ]
    if made_from is not None:
        lines.append(f"made from {', '.join(map(_source, made_from)) or 'no artifact'}")
        lines.append(f"used by   {', '.join(used_by) or 'no run'}")
    lines += [f"metadata  {key} = {value}" for key, value in sorted(shown["metadata"].items())]
    content = shown["content"]
    cells = [
        (e["path"], words.byte_size(e["bytes"]), e["uri"] or e["sha256"][:12])
        for e in content[:FILES_MAX]
    ]
    table = format_table(
        ("file", "size", "content"), cells, right=(False, True, False), width=terminal_width()
    )
    rest = len(content) - FILES_MAX
    more = f"\n  ... and {rest} more: --json has all" if rest > 0 else ""
    # Names and metadata are what others wrote; the table sees to its own cells.
    return "\n".join(map(words.printable, lines)) + f"\n\n{table}{more}"


def _source(row: Mapping[str, Any]) -> str:
    version = "" if row["version"] is None else f":v{row['version']}"
    made_by = f" of run {row['produced_by']}" if row["produced_by"] else ""
    return f"{row['name']}{version}{made_by}"
