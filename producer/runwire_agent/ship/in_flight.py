"""What is under way: the counts that all folders share, and the cuts of one series of a folder."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from runwire_agent.ship.broker import Broker, Failure, ValueOf, as_bundled
from runwire_agent.ship.cuts_log import CutRange
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.series_reader import CUT_BYTES

__all__ = ["RETRY_S", "Lane", "Outbox", "Sent"]

# After a topic refused a series, its records are offered again; doubled each time.
RETRY_S = 1.0


@dataclass(slots=True)
class Outbox:
    """What all folders of one shipper share: the broker, and how much is under way."""

    broker: Broker
    value_of: ValueOf = as_bundled
    bytes: int = 0
    delivered: int = 0
    points: int = 0
    set_aside: int = 0
    refused: dict[str, Failure] = field(default_factory=dict)  # by kind, until it is taken again
    batch_bytes_wanted: int | None = None
    cut_bytes: int = CUT_BYTES  # of spool in one metric cut; less once a topic refused one


@dataclass(slots=True, eq=False)
class Sent:
    """A cut under way; `waiting` messages of it are not reported yet."""

    cut: Cut
    waiting: int = 0
    failure: Failure | None = None
    kind: str = ""
    value_bytes: int = 0
    is_replayed: bool = False


@dataclass(slots=True)
class Lane:
    """One series of the folder."""

    sent: deque[Sent] = field(default_factory=deque)
    again: deque[CutRange] = field(default_factory=deque)
    is_failed: bool = False
    retry_at_s: float = 0.0
    retry_s: float = RETRY_S
