"""Cuts in flight between the spool and the brokers: counts of a shipper, and queues of a series."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from runwire_agent.ship.broker import Broker, Failure, ValueOf, keep_bundled_id
from runwire_agent.ship.folder_cuts import BatchRange
from runwire_disk.spool.cut import Cut
from runwire_disk.spool.series_reader import CUT_BYTES

__all__ = ["REFUSED_RETRY_S", "InFlight", "Reported", "Sent", "SeriesInFlight"]

REFUSED_RETRY_S = 1.0  # between two offers of a series that its topic refuses; doubled each time


class Reported(Protocol):
    """A folder that got a report about its cuts."""

    @property
    def folder(self) -> Path:
        """Path of the folder."""
        ...

    def settle(self, now_s: float) -> None:
        """Deal with the reports; it takes itself off the list once no retry is to come.

        Raises: OSError when it cannot keep what a topic refuses.
        """
        ...


@dataclass(slots=True)
class InFlight:
    """State that all folders of one shipper share: the broker, and the counts of cuts sent to it.

    Units: `bytes` and `batch_bytes_wanted` of values, `cut_bytes` of spool in one metric cut.
    """

    broker: Broker
    value_of: ValueOf = keep_bundled_id
    bytes: int = 0
    delivered: int = 0
    points: int = 0
    set_aside: int = 0
    refused: dict[str, Failure] = field(default_factory=dict)  # by kind, until it is taken again
    batch_bytes_wanted: int | None = None
    cut_bytes: int = CUT_BYTES  # less once a topic refused one
    # Folders with a report since they were settled, or with a retry to come.
    reported: set[Reported] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Sent:
    """A cut in flight; `waiting` messages of it are not reported yet."""

    cut: Cut
    waiting: int = 0
    failure: Failure | None = None
    kind: str = ""
    value_bytes: int = 0
    is_replayed: bool = False


@dataclass(slots=True)
class SeriesInFlight:
    """One series of the folder: its unacknowledged cuts, and the cuts to send again first."""

    sent: deque[Sent] = field(default_factory=deque)
    again: deque[BatchRange] = field(default_factory=deque)
    is_failed: bool = False
    retry_at_s: float = 0.0
    retry_s: float = REFUSED_RETRY_S
