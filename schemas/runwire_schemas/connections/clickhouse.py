"""Connection settings of ClickHouse, for workers, migrations and the read side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runwire_schemas.connections.table import SECRET, setting

__all__ = ["ClickHouseSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickHouseSettings:
    """Where ClickHouse is; unset: the engine that `runwire up` started for the data root."""

    PREFIX: ClassVar[str] = "RUNWIRE_CLICKHOUSE_"

    url: str | None = setting(
        SECRET, None, "`http://user:password@host:port/database`; unset: the engine of `runwire up`"
    )
