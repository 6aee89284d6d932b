"""What `flush` and `finish` tell their caller."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FlushReport:
    """State of one writer's spool.

    Units: points, except `waiting`, which counts lifecycle records held in memory for want of
    disk space. `spooled` survives the death of the trainer; `acked` is stored in ClickHouse (or
    handed to Kafka); `pending` is spooled but not acked yet.
    """

    spooled: int = 0
    acked: int = 0
    pending: int = 0
    waiting: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
