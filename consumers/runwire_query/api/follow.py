"""New points of a run, call by call, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from runwire_query.api.runs import OF_RUN, RunRef
from runwire_query.connection import Reader

__all__ = ["Follower", "LoggedCall"]

CALLS_A_POLL: Final = 1000
# Writers deliver independently: a point may become visible this long after a later one did.
LATE: Final = timedelta(seconds=60)
# Before the newest point: where the first poll looks for the last lines, before it reads all.
FIRST_SPANS: Final = (LATE, timedelta(hours=1), timedelta(days=1))

# Writer, seq and step. A forked process has the rank and attempt of its parent and counts anew, and
# attempts may be numbered anew while a run is followed.
CallKey: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedCall:
    """One call of `log`: its values by metric name, sorted."""

    rank: int
    attempt: int
    seq: int
    step: int
    at: datetime
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    rank: int
    attempt: int
    seq: int
    step: int
    writer_key: int
    called_at: datetime

    @property
    def key(self) -> CallKey:
        return self.writer_key, self.seq, self.step


class Follower:
    """Remembers the calls that it returned of the last minute of data time. Threads: one."""

    def __init__(
        self, reader: Reader, run: RunRef, metrics: Sequence[str] = (), *, lines: int
    ) -> None:
        self._reader = reader
        self._run = run
        self._metrics = list(metrics)
        self._returned: dict[CallKey, datetime] = {}
        self._newest: datetime | None = None
        self._lines = lines

    def new_calls(self) -> list[LoggedCall]:
        """Return calls not returned before, oldest first; the first time the last `lines`.

        Raises: QueryError.
        """
        is_first = self._newest is None
        listed = self._list_last() if is_first else self._list(self._since())
        calls = [call for call in listed if call.key not in self._returned]
        for call in calls:
            self._returned[call.key] = call.called_at
            self._newest = max(self._newest or call.called_at, call.called_at)
        self._forget()
        return self._with_values(calls[max(0, len(calls) - self._lines) :] if is_first else calls)

    def _since(self) -> datetime | None:
        return None if self._newest is None else self._newest - LATE

    def _list_last(self) -> list[_Call]:
        """Return at least the last `lines` calls, with those of the last minute.

        A run may hold 10^7 calls: spans of growing length are read until one has enough.
        """
        rows = self._reader.rows(
            f"SELECT count() AS series, max(at) AS newest FROM v_latest WHERE {self._conditions()}",
            self._parameters(),
        )
        if not rows or not rows[0]["series"]:
            return []
        newest = rows[0]["newest"].replace(tzinfo=UTC)
        for span in FIRST_SPANS:
            calls = self._list(newest - span)
            if len(calls) >= self._lines:
                return calls
        return self._list(None)

    def _list(self, since: datetime | None) -> list[_Call]:
        """Return the newest calls since a time, oldest first, without their values."""
        rows = self._reader.read(
            _Call,
            "SELECT writer_key, seq, step, any(rank) AS rank, any(attempt) AS attempt, "
            "max(at) AS called_at "
            f"FROM v_metrics WHERE {self._conditions(since)} GROUP BY writer_key, seq, step "
            f"ORDER BY called_at DESC, seq DESC LIMIT {CALLS_A_POLL}",
            self._parameters(since),
        )
        return rows[::-1]

    def _with_values(self, calls: Sequence[_Call]) -> list[LoggedCall]:
        """Return the calls with their values: only what is printed leaves the server."""
        if not calls:
            return []
        since = min(call.called_at for call in calls)
        keys = ", ".join(str(call.key) for call in calls)
        rows = self._reader.rows(
            "SELECT writer_key, seq, step, groupArray(metric) AS names, "
            "groupArray(value) AS numbers "
            f"FROM v_metrics WHERE {self._conditions(since)} "
            f"AND (writer_key, seq, step) IN ({keys}) GROUP BY writer_key, seq, step",
            self._parameters(since),
        )
        values = {
            (row["writer_key"], row["seq"], row["step"]): dict(
                sorted(zip(row["names"], row["numbers"], strict=True))
            )
            for row in rows
        }
        return [
            LoggedCall(
                rank=call.rank,
                attempt=call.attempt,
                seq=call.seq,
                step=call.step,
                at=call.called_at,
                values=values[call.key],
            )
            for call in calls
            if call.key in values  # else the run was deleted between the two questions
        ]

    def _conditions(self, since: datetime | None = None) -> str:
        conditions = OF_RUN
        if self._metrics:
            conditions += " AND arrayExists(text -> position(metric, text) > 0, "
            conditions += "{metrics:Array(String)})"
        return conditions + (" AND at >= {since:DateTime64(3)}" if since is not None else "")

    def _parameters(self, since: datetime | None = None) -> dict[str, Any]:
        return self._run.parameters(metrics=self._metrics, **({"since": since} if since else {}))

    def _forget(self) -> None:
        if self._newest is not None:
            horizon = self._newest - 2 * LATE
            self._returned = {key: at for key, at in self._returned.items() if at >= horizon}
