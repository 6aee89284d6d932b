"""New points of a run, call by call, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from runwire_query.connection import Reader
from runwire_query.runs import OF_RUN

CALLS_A_POLL = 1000
# Writers deliver independently: a point may become visible this long after a later one did.
LATE = timedelta(seconds=60)

CallKey = tuple[int, int, int, int]


class Follower:
    """Remembers which calls were seen in the last minute of data time."""

    def __init__(
        self, reader: Reader, run: Mapping[str, Any], metrics: Sequence[str], *, lines: int
    ) -> None:
        self._reader = reader
        self._of_run = {"project": run["project"], "run_id": run["run_id"]}
        self._metrics = list(metrics)
        self._seen: dict[CallKey, datetime] = {}
        self._newest: datetime | None = None
        self._lines = lines

    def new_calls(self) -> list[dict[str, Any]]:
        """Calls not returned before, oldest first; the first time only the last few."""
        first = self._newest is None
        calls = [call for call in self._fetch() if _key(call) not in self._seen]
        for call in calls:
            self._seen[_key(call)] = call["at"]
            self._newest = max(self._newest or call["at"], call["at"])
        self._forget()
        return calls[-self._lines :] if first and self._lines else [] if first else calls

    def _fetch(self) -> list[dict[str, Any]]:
        conditions = OF_RUN
        wanted: dict[str, Any] = {**self._of_run, "metrics": self._metrics}
        if self._metrics:
            conditions += " AND arrayExists(text -> position(metric, text) > 0, "
            conditions += "{metrics:Array(String)})"
        order = "DESC"
        if self._newest is not None:
            conditions += " AND at >= {since:DateTime64(3)}"
            wanted["since"] = self._newest - LATE
        rows = self._reader.rows(
            "SELECT rank, attempt, seq, step, max(at) AS called_at, "
            "groupArray(metric) AS names, groupArray(value) AS numbers "
            f"FROM v_metrics WHERE {conditions} GROUP BY rank, attempt, seq, step "
            f"ORDER BY called_at {order}, seq {order} LIMIT {CALLS_A_POLL}",
            wanted,
        )
        return [_call(row) for row in reversed(rows)]

    def _forget(self) -> None:
        if self._newest is not None:
            horizon = self._newest - 2 * LATE
            self._seen = {key: at for key, at in self._seen.items() if at >= horizon}


def _call(row: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(sorted(zip(row["names"], row["numbers"], strict=True)))
    fixed = {name: row[name] for name in ("rank", "attempt", "seq", "step")}
    return {**fixed, "at": row["called_at"], "values": values}


def _key(call: Mapping[str, Any]) -> CallKey:
    return call["rank"], call["attempt"], call["seq"], call["step"]
