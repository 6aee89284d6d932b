"""Runs as text: the list, the page of one run, the line of one call; and their JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from runwire_query.api.follow import LoggedCall
from runwire_query.api.metrics import Completeness, CurvePoint, LatestMetric
from runwire_query.api.runs import RunDetail, RunRow
from runwire_query.text import words
from runwire_query.text.sparkline import sparkline
from runwire_query.text.table import ELLIPSIS, format_table, terminal_width
from runwire_query.text.terminal import has_colour

__all__ = ["RunPage", "as_page", "as_table", "call_json", "call_line", "json_value", "page_json"]

SPARK_WIDTH: Final = 24
METRICS_MAX: Final = 40  # a page; --metric and --json give the rest
# Of a longer name the page shows the beginning, --json all.
NAME_CHARS_MAX: Final = 120
# Failed calls among the dropped; everything else counts points.
_CALL: Final = "call:"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Everything that `runwire show` prints about one run."""

    run: RunDetail
    params: Mapping[str, str]
    metrics: Sequence[LatestMetric]
    completeness: Sequence[Completeness]

    @property
    def shown(self) -> Sequence[LatestMetric]:
        """The metrics that fit the page."""
        return self.metrics[:METRICS_MAX]


def as_table(runs: Sequence[RunRow]) -> str:
    """Return the list for people."""
    now = datetime.now(UTC)
    header = ("run", "name", "project", "status", "step", "started")
    rows = [
        (
            run.run_id,
            run.name or "-",
            run.project,
            ", ".join(filter(None, (run.status, words.silence(run.status, run.last_seen_at, now)))),
            "-" if run.last_step is None else str(run.last_step),
            f"{words.age(run.started_at, now)} ago",
        )
        for run in runs
    ]
    right = (False, False, False, False, True, True)
    return format_table(header, rows, right=right, width=terminal_width())


def as_page(page: RunPage, curves: Sequence[Sequence[CurvePoint]]) -> str:
    """Return the page for people.

    Shapes: one curve for each of `page.shown`.
    """
    width = terminal_width()
    parts = [_head(page.run), _params(page.params, width), _metrics(page.shown, curves, width)]
    left_out = len(page.metrics) - len(page.shown)
    if left_out:
        parts.append(f"  ... and {left_out} more: --metric TEXT narrows, --json has all")
    parts.append(_completeness(page.completeness, page.run.dropped))
    return "\n".join(part for part in parts if part)


def page_json(page: RunPage) -> dict[str, Any]:
    """Return the page as JSON values."""
    return {
        "run": json_value(page.run),
        "params": dict(page.params),
        "metrics": [json_value(metric) for metric in page.metrics],
        "completeness": [json_value(row) for row in page.completeness],
    }


def call_line(call: LoggedCall) -> str:
    """Return one call of `log` for people."""
    values = "  ".join(f"{name} {words.number(value)}" for name, value in call.values.items())
    rank = f" rank {call.rank}" if call.rank else ""
    return f"{call.at:%H:%M:%S}{rank}  step {call.step}  {values}"


def call_json(call: LoggedCall) -> dict[str, Any]:
    """Return one call of `log` as JSON values."""
    return json_value(call)


def json_value(row: Any) -> dict[str, Any]:
    """Return a dataclass of this module's rows as JSON values.

    Units: times are UTC, as ClickHouse writes them: `2030-01-01 00:00:00.000000`.
    """
    return {
        name: str(value.replace(tzinfo=None))
        if isinstance(value, datetime)
        else str(value)
        if isinstance(value, bytes)
        else value
        for name, value in asdict(row).items()
    }


def _head(run: RunDetail) -> str:
    status = words.coloured(run.status, colour=has_colour())
    silent = words.silence(run.status, run.last_seen_at, datetime.now(UTC))
    why = ", ".join(filter(None, (run.status_reason, silent)))
    reason = f" ({why})" if why else ""
    until = run.finished_at or datetime.now(UTC)
    took = words.duration((until - run.started_at).total_seconds()) if run.started_at else "-"
    verb = "took" if run.finished_at else "for"
    step = "-" if run.last_step is None else run.last_step
    lines = [
        f"run       {run.run_id}" + (f"  {run.name}" if run.name else ""),
        f"project   {run.project}",
        f"status    {status}{reason}",
        f"started   {words.instant(run.started_at)}, {verb} {took}",
        f"step      {step}, attempt {run.attempt}, {run.world_size or 1} rank(s)",
    ]
    if run.second_writers:
        lines.append(
            f"note      {run.second_writers} other trainer(s) lived under this id at the same "
            "time; no points are hidden"
        )
    if run.tags:
        lines.append("tags      " + ", ".join(f"{k}={v}" for k, v in sorted(run.tags.items())))
    return "\n".join(lines)


def _params(params: Mapping[str, str], width: int | None) -> str:
    if not params:
        return "\nno params were logged"
    return "\n" + format_table(("param", "value"), list(params.items()), width=width)


def _metrics(
    shown: Sequence[LatestMetric], curves: Sequence[Sequence[CurvePoint]], width: int | None
) -> str:
    if not shown:
        return "\nno metrics (yet): points appear seconds after log()"
    has_ranks = len({metric.rank for metric in shown}) > 1
    rows = [
        (
            _short(metric.metric) + (f" [rank {metric.rank}]" if has_ranks else ""),
            sparkline([math.nan if p.value is None else p.value for p in curve], SPARK_WIDTH),
            words.number(metric.value),
            words.number(metric.min),
            words.number(metric.max),
            str(metric.step),
        )
        for metric, curve in zip(shown, curves, strict=True)
    ]
    header = ("metric", "curve", "last", "min", "max", "step")
    right = (False, False, True, True, True, True)
    return "\n" + format_table(header, rows, right=right, width=width)


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS_MAX else name[: NAME_CHARS_MAX - 1] + ELLIPSIS


def _completeness(rows: Sequence[Completeness], dropped: Mapping[str, int]) -> str:
    """Return the books of the run; "complete" only where nothing at all was dropped."""
    lost = [f"{count:,} points ({reason})" for reason, count in sorted(_points(dropped).items())]
    calls = {key.removeprefix(_CALL): n for key, n in dropped.items() if key.startswith(_CALL)}
    lost += [f"{count:,} calls of {name}" for name, count in sorted(calls.items())]
    lines = [f"dropped: {', '.join(lost)}"] if lost else []
    if rows:
        accepted = sum(row.accepted for row in rows)
        stored = sum(row.stored for row in rows)
        dead_lettered = sum(row.dead_lettered for row in rows)
        pending = sum(row.pending for row in rows)
        if pending <= 0 and not dead_lettered:
            complete = "points" if lost else "complete"
            lines.insert(0, f"{complete}: all {accepted:,} accepted points are stored")
        else:
            lines.insert(
                0,
                f"points: {accepted:,} accepted = {stored:,} stored"
                f" + {dead_lettered:,} dead-lettered + {pending:,} pending",
            )
    return "".join(f"\n{line}" for line in lines)


def _points(dropped: Mapping[str, int]) -> dict[str, int]:
    return {key: n for key, n in dropped.items() if n and not key.startswith(_CALL)}
