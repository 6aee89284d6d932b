"""`runwire show RUN`: one run on one page."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SUMMARY = "show one run: status, params, latest metrics with their curves"
EXAMPLE = "runwire show happy-run --metric loss --plot curves.png"
SPARK_WIDTH = 24
METRICS_MAX = 40  # a page; --metric and --json give the rest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `show`."""
    parser.add_argument("run", metavar="RUN", help="run id, its unique beginning, or the name")
    parser.add_argument("--project", help="when the name exists in several projects")
    parser.add_argument(
        "--metric", action="append", metavar="TEXT", help="only metrics containing TEXT; repeatable"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the learning curves")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Collect the page and print it."""
    if args.plot is not None:
        import matplotlib as _  # noqa: F401 - say what is missing before asking the server
    from runwire_query import runs
    from runwire_query.connection import connect

    reader = connect(args.dir)
    try:
        found = runs.find_run(reader, args.run, args.project)
        metrics = [row for row in runs.latest(reader, found) if _wanted(row["metric"], args.metric)]
        page = {
            "run": found,
            "params": runs.params(reader, found),
            "metrics": metrics,
            "completeness": runs.completeness(reader, found),
        }
        if args.json:
            print(json.dumps(page, default=str))
        else:
            shown = metrics[:METRICS_MAX]
            curves = [runs.curve(reader, found, row["metric"], row["rank"]) for row in shown]
            print(_page(page, shown, curves))
        if args.plot is not None:
            _draw(args.plot, reader, found, metrics)
    finally:
        reader.close()
    return 0


def _wanted(metric: str, texts: Sequence[str] | None) -> bool:
    return not texts or any(text in metric for text in texts)


def _draw(file: Path, reader: Any, found: Mapping[str, Any], metrics: list[dict[str, Any]]) -> None:
    from runwire_query import runs
    from runwire_query.plot import PANELS_MAX, draw

    names = list(dict.fromkeys(row["metric"] for row in metrics))[:PANELS_MAX]
    chosen = [row for row in metrics if row["metric"] in names]
    curves = {
        (row["metric"], row["rank"]): runs.curve(reader, found, row["metric"], row["rank"])
        for row in chosen
    }
    if not curves:
        print("nothing to plot: the run has no such metric", file=sys.stderr)
        return
    draw(file, f"{found['name'] or found['run_id']} ({found['project']})", curves)
    print(f"wrote {file}", file=sys.stderr)


def _page(
    page: Mapping[str, Any],
    shown: Sequence[Mapping[str, Any]],
    curves: Sequence[Sequence[tuple[float, float]]],
) -> str:
    from runwire_query.text.table import terminal_width

    width = terminal_width()
    parts = [_head(page["run"]), _params(page["params"], width), _metrics(shown, curves, width)]
    left_out = len(page["metrics"]) - len(shown)
    if left_out:
        parts.append(f"  ... and {left_out} more: --metric TEXT narrows, --json has all")
    parts.append(_completeness(page["completeness"]))
    return "\n".join(part for part in parts if part)


def _head(found: Mapping[str, Any]) -> str:
    from runwire_query.text import words
    from runwire_query.text.terminal import has_colour

    status = words.coloured(found["status"], colour=has_colour())
    reason = f" ({found['status_reason']})" if found["status_reason"] else ""
    end = found["finished_at"]
    until = words.as_utc(end) if end else datetime.now(UTC)
    started = found["started_at"]
    took = words.duration((until - words.as_utc(started)).total_seconds()) if started else "-"
    step = "-" if found["last_step"] is None else found["last_step"]
    lines = [
        f"run       {found['run_id']}" + (f"  {found['name']}" if found["name"] else ""),
        f"project   {found['project']}",
        f"status    {status}{reason}",
        f"started   {words.instant(started)}, {'took' if end else 'for'} {took}",
        f"step      {step}, attempt {found['attempt']}, {found['world_size'] or 1} rank(s)",
    ]
    if found["tags"]:
        lines.append("tags      " + ", ".join(f"{k}={v}" for k, v in sorted(found["tags"].items())))
    return "\n".join(lines)


def _params(params: Mapping[str, str], width: int | None) -> str:
    from runwire_query.text.table import format_table

    if not params:
        return "\nno params were logged"
    return "\n" + format_table(("param", "value"), list(params.items()), width=width)


def _metrics(
    shown: Sequence[Mapping[str, Any]],
    curves: Sequence[Sequence[tuple[float, float]]],
    width: int | None,
) -> str:
    from runwire_query.text.sparkline import sparkline
    from runwire_query.text.table import format_table
    from runwire_query.text.words import number

    if not shown:
        return "\nno metrics (yet): points appear seconds after log()"
    many_ranks = len({row["rank"] for row in shown}) > 1
    rows = [
        (
            row["metric"] + (f" [rank {row['rank']}]" if many_ranks else ""),
            sparkline([math.nan if mean is None else mean for _, mean in curve], SPARK_WIDTH),
            number(row["value"]),
            number(row["min"]),
            number(row["max"]),
            str(row["step"]),
        )
        for row, curve in zip(shown, curves, strict=True)
    ]
    header = ("metric", "curve", "last", "min", "max", "step")
    right = (False, False, True, True, True, True)
    return "\n" + format_table(header, rows, right=right, width=width)


def _completeness(rows: Sequence[Mapping[str, Any]]) -> str:
    """Sums over ranks: accepted = stored + dead-lettered + pending."""
    if not rows:
        return ""
    total = {
        name: sum(_count(row[name]) for row in rows)
        for name in ("accepted", "stored", "dead_lettered", "dropped", "pending")
    }
    dropped = f"; {total['dropped']:,} dropped, see v_completeness" if total["dropped"] else ""
    if total["pending"] <= 0 and not total["dead_lettered"]:
        return f"\ncomplete: all {total['accepted']:,} accepted points are stored{dropped}"
    return (
        f"\npoints: {total['accepted']:,} accepted = {total['stored']:,} stored"
        f" + {total['dead_lettered']:,} dead-lettered + {total['pending']:,} pending{dropped}"
    )


def _count(value: Any) -> int:
    """Dropped points come by reason."""
    return sum(value.values()) if isinstance(value, dict) else int(value or 0)
