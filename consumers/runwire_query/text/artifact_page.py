"""Artifacts as text: the list and the page of one version; and their JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from runwire_query.api.artifacts import ArtifactDetail, ArtifactRow
from runwire_query.api.lineage import UsedArtifact
from runwire_query.errors import printable
from runwire_query.text import words
from runwire_query.text.table import format_table, terminal_width

__all__ = ["as_page", "as_table", "page_json", "row_json"]

FILES_MAX: Final = 30  # a page; --json has all


def as_table(rows: Sequence[ArtifactRow]) -> str:
    """Return the list for people; the project only when there are several."""
    now = datetime.now(UTC)
    has_projects = len({row.project for row in rows}) > 1
    cells = [
        (
            *([row.project] if has_projects else []),
            row.name,
            "-" if row.version is None else f"v{row.version}",
            ",".join(row.aliases) or "-",
            row.type,
            f"{row.state}: {row.reason}" if row.reason else row.state,
            words.byte_size(row.bytes),
            row.run_id,
            "?" if row.used_by is None else str(len(row.used_by)),
            f"{words.age(row.created_at, now)} ago",
        )
        for row in rows
    ]
    project = ["project"] if has_projects else []
    header = (
        *project, "name", "version", "aliases", "type", "state", "size", "run", "used by", "logged"
    )  # fmt: skip
    right = [name in {"size", "used by", "logged"} for name in header]
    return format_table(header, cells, right=right, width=terminal_width())


def as_page(artifact: ArtifactDetail) -> str:
    """Return the page of one version for people."""
    row = artifact.row
    aliases = f"  ({', '.join(row.aliases)})" if row.aliases else ""
    lines = [
        f"artifact  {row.name}:v{row.version}{aliases}",
        f"project   {row.project}",
        f"type      {row.type}",
        f"size      {words.byte_size(row.bytes)} in {row.files} file(s)",
        f"sha256    {row.sha256}",
        f"stored    {artifact.manifest}",
        f"logged    {row.created_at.isoformat()[:19]}Z by run {row.run_id}, rank {row.rank}",
    ]
    if artifact.made_from is not None and row.used_by is not None:
        lines.append(f"made from {', '.join(map(_source, artifact.made_from)) or 'no artifact'}")
        lines.append(f"used by   {', '.join(row.used_by) or 'no run'}")
    lines += [f"metadata  {key} = {value}" for key, value in sorted(artifact.metadata.items())]
    cells = [
        (file.path, words.byte_size(file.bytes), file.uri or file.sha256[:12])
        for file in artifact.content[:FILES_MAX]
    ]
    table = format_table(
        ("file", "size", "content"), cells, right=(False, True, False), width=terminal_width()
    )
    rest = len(artifact.content) - FILES_MAX
    more = f"\n  ... and {rest} more: --json has all" if rest > 0 else ""
    # Names and metadata are foreign text; the table escapes its own cells.
    return "\n".join(map(printable, lines)) + f"\n\n{table}{more}"


def row_json(row: ArtifactRow) -> dict[str, Any]:
    """Return one row of the list as JSON values."""
    return {**asdict(row), "created_at": row.created_at.isoformat()}


def page_json(artifact: ArtifactDetail) -> dict[str, Any]:
    """Return the page of one version as JSON values."""
    made_from = artifact.made_from
    return {
        **row_json(artifact.row),
        "made_from": None
        if made_from is None
        else [{**asdict(used), "used_at": words.instant(used.used_at)} for used in made_from],
        "metadata": dict(artifact.metadata),
        "manifest": artifact.manifest,
        "content": [asdict(file) for file in artifact.content],
    }


def _source(used: UsedArtifact) -> str:
    version = "" if used.version is None else f":v{used.version}"
    made_by = f" of run {used.produced_by}" if used.produced_by else ""
    return f"{used.name}{version}{made_by}"
