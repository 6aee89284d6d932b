"""`runwire show RUN`: the page of one run, and its curves as a picture."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire_query.connection import Reader
    from runwire_query.text.run_page import RunPage

SUMMARY = "show one run: status, params, latest metrics with their curves"
EXAMPLE = "runwire show happy-run --metric loss --plot curves.png"


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
        import matplotlib as _  # noqa: F401 - name a missing package before asking the server
    from runwire_query.api import metrics, runs
    from runwire_query.connection import connect
    from runwire_query.text.run_page import RunPage, as_page, page_json

    reader = connect(args.dir)
    try:
        detail = runs.find_run(reader, args.run, args.project)
        page = RunPage(
            run=detail,
            params=runs.read_params(reader, detail.ref),
            metrics=[
                latest
                for latest in metrics.read_latest(reader, detail.ref)
                if _is_wanted(latest.metric, args.metric)
            ],
            completeness=metrics.read_completeness(reader, detail.ref),
        )
        if args.json:
            print(json.dumps(page_json(page)))
        else:
            print(as_page(page, metrics.read_curves(reader, detail.ref, page.shown)))
        if args.plot is not None:
            _draw(args.plot, reader, page)
    finally:
        reader.close()
    return 0


def _is_wanted(metric: str, texts: Sequence[str] | None) -> bool:
    return not texts or any(text in metric for text in texts)


def _draw(file: Path, reader: Reader, page: RunPage) -> None:
    from runwire_query.api.metrics import read_curves
    from runwire_query.plot import PANELS_MAX, draw

    run = page.run
    names = list(dict.fromkeys(latest.metric for latest in page.metrics))[:PANELS_MAX]
    drawn = [latest for latest in page.metrics if latest.metric in names]
    if not drawn:
        print("nothing to plot: the run has no such metric", file=sys.stderr)
        return
    curves = read_curves(reader, run.ref, drawn)
    of_series = {(s.metric, s.rank): curve for s, curve in zip(drawn, curves, strict=True)}
    draw(file, f"{run.name or run.run_id} ({run.project})", of_series)
    print(f"wrote {file}", file=sys.stderr)
