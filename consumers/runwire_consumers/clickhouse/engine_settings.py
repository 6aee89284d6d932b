"""Settings of the embedded engine: its share of the memory, and limits of the reader's queries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runwire_schemas.connections.table import (
    BYTES,
    COUNT,
    RATIO,
    SECONDS,
    environment_values,
    setting,
)

# The engine itself needs 0.4 GiB; with less than this a merge of wide rows could not end.
MEMORY_BYTES_MIN = 1024**3
# What a control group leaves to its processes; version 2, then version 1.
_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of the embedded engine; each field is RUNWIRE_ENGINE_<NAME> in the environment."""

    PREFIX: ClassVar[str] = "RUNWIRE_ENGINE_"

    memory_ratio: float = setting(
        RATIO, 0.25, "embedded engine: its share of the machine's memory, at least 1 GiB"
    )
    query_bytes: int | None = setting(
        BYTES, None, "embedded engine: memory of one query; unset: half of the engine's"
    )
    query_s: float = setting(SECONDS, 120.0, "embedded engine: a query ends after this; 0: never")
    query_rows: int = setting(
        COUNT, 2_000_000_000, "embedded engine: rows that one query may read; 0: any number"
    )
    result_bytes: int = setting(BYTES, 4 * 1024**3, "embedded engine: size of one query's answer")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> EngineSettings:
        """Return the settings of this environment. Raises: ConfigError."""
        return cls(**environment_values(environ, cls))

    @property
    def memory_bytes(self) -> int:
        """Memory that the engine may use in all."""
        return max(MEMORY_BYTES_MIN, int(machine_bytes() * self.memory_ratio))

    @property
    def memory_bytes_of_query(self) -> int:
        """Memory that one query of the reader may use."""
        return self.query_bytes or self.memory_bytes // 2


def machine_bytes() -> int:
    """Return the memory of this machine, or of the control group that this process is in."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in _GROUP_LIMITS:
        try:
            sizes.append(int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):  # another version, or "max"
            continue
    return min(sizes)
