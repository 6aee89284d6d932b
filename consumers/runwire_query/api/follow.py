"""New points of a run, call by call, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from runwire_query.api.runs import OF_RUN, RunRef
from runwire_query.connection import Reader

__all__ = ["Follower", "LoggedCall"]

CALLS_A_POLL: Final = 1000
# Writers deliver independently: a point may become visible this long after a later one did.
LATE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedCall:
    """One call of `log`: its values by metric name, sorted."""

    rank: int
    attempt: int
    seq: int
    step: int
    at: datetime
    values: Mapping[str, float]

    @property
    def key(self) -> tuple[int, int, int, int]:
        """The identity of the call within its run."""
        return self.rank, self.attempt, self.seq, self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredCall:
    rank: int
    attempt: int
    seq: int
    step: int
    called_at: datetime
    names: Sequence[str]
    numbers: Sequence[float]


class Follower:
    """Remembers the calls that it returned of the last minute of data time. Threads: one."""

    def __init__(
        self, reader: Reader, run: RunRef, metrics: Sequence[str] = (), *, lines: int
    ) -> None:
        self._reader = reader
        self._run = run
        self._metrics = list(metrics)
        self._returned: dict[tuple[int, int, int, int], datetime] = {}
        self._newest: datetime | None = None
        self._lines = lines

    def new_calls(self) -> list[LoggedCall]:
        """Return calls not returned before, oldest first; the first time the last `lines`.

        Raises: QueryError.
        """
        is_first = self._newest is None
        calls = [call for call in self._fetch() if call.key not in self._returned]
        for call in calls:
            self._returned[call.key] = call.at
            self._newest = max(self._newest or call.at, call.at)
        self._forget()
        return calls[-self._lines :] if is_first and self._lines else [] if is_first else calls

    def _fetch(self) -> list[LoggedCall]:
        conditions = OF_RUN
        parameters = self._run.parameters(metrics=self._metrics)
        if self._metrics:
            conditions += " AND arrayExists(text -> position(metric, text) > 0, "
            conditions += "{metrics:Array(String)})"
        if self._newest is not None:
            conditions += " AND at >= {since:DateTime64(3)}"
            parameters["since"] = self._newest - LATE
        rows = self._reader.read(
            _StoredCall,
            "SELECT rank, attempt, seq, step, max(at) AS called_at, "
            "groupArray(metric) AS names, groupArray(value) AS numbers "
            f"FROM v_metrics WHERE {conditions} GROUP BY rank, attempt, seq, step "
            f"ORDER BY called_at DESC, seq DESC LIMIT {CALLS_A_POLL}",
            parameters,
        )
        return [_call(row) for row in reversed(rows)]

    def _forget(self) -> None:
        if self._newest is not None:
            horizon = self._newest - 2 * LATE
            self._returned = {key: at for key, at in self._returned.items() if at >= horizon}


def _call(row: _StoredCall) -> LoggedCall:
    return LoggedCall(
        rank=row.rank,
        attempt=row.attempt,
        seq=row.seq,
        step=row.step,
        at=row.called_at,
        values=dict(sorted(zip(row.names, row.numbers, strict=True))),
    )
