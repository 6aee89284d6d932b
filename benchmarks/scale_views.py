"""Every public view at two sizes of history: what questions cost, and how much that grows.

`--long` fills 10^8 points, 10,000 runs and 1,000 live ones; else 10^7, 1,500 and 200. Floor: the
same question to a table that is made for it, in the same engine. All figures are CPU of the engine.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from embedded import engine
from measure import figure, machine
from scale.asking import Cost, ask, purpose_made
from scale.filling import Size, extend, prepare
from scale.questions import HISTORY, QUESTIONS, Question

QUICK: Final = (
    Size(runs=60, live=20, longest=100_000, curve_metrics=2, wide_metrics=200, ranks=64),
    Size(runs=150, live=20, longest=100_000, curve_metrics=2, wide_metrics=200, ranks=64),
)
USUAL: Final = (
    Size(runs=400, live=200, longest=1_000_000, curve_metrics=2, wide_metrics=1000, ranks=512),
    Size(runs=1500, live=200, longest=1_000_000, curve_metrics=2, wide_metrics=1000, ranks=512),
)
LONG: Final = (
    Size(runs=2000, live=1000, longest=10**7, curve_metrics=20, wide_metrics=10_000, ranks=4096),
    Size(runs=12_000, live=1000, longest=10**7, curve_metrics=20, wide_metrics=10_000, ranks=4096),
)
GROWTH_MAX: Final = 1.5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    size = arguments.add_mutually_exclusive_group()
    size.add_argument("--long", action="store_true", help="10^8 points, half an hour")
    size.add_argument("--quick", action="store_true", help="10^6 points, a minute")
    args = arguments.parse_args()
    small, large = LONG if args.long else QUICK if args.quick else USUAL
    print(machine())
    with engine() as (_, client):
        prepare(client, small)
        extend(client, 0, small)
        before = ask_all(client)
        extend(client, small.runs, large)
        after = ask_all(client)
        tables = purpose_made(client, {question.view for question in QUESTIONS})
        names = named(client)
        for question in QUESTIONS:
            floor = ask(client, question.sql.format(view=tables[question.view], **names))
            report(question, before[question], after[question], floor)


def named(client: Any) -> dict[str, str]:
    """Return what questions name: a finished run of the usual size and the newest time."""
    run_id = client.query(
        "SELECT run_id FROM scale_runs WHERE project = 'project-05' AND NOT live "
        "AND number >= 100 ORDER BY number LIMIT 1"
    ).first_row[0]
    newest = client.query("SELECT toString(max(ended)) FROM scale_runs").first_row[0]
    return {
        "run": f"project = 'project-05' AND run_id = '{run_id}'",
        "now": f"toDateTime64('{newest}', 3, 'UTC')",
    }


def ask_all(client: Any) -> dict[Question, Cost]:
    """Return what each question costs now."""
    names = named(client)
    return {q: ask(client, q.sql.format(view=q.view, **names)) for q in QUESTIONS}


def report(question: Question, before: Cost, after: Cost, floor: Cost) -> None:
    """Print the cost at the larger size, its ratio to the floor, and its growth."""
    name = f"{question.view}, {question.name}"
    figure(
        name, after.cpu_ms, "ms CPU",
        floor=f"purpose-made table {floor.cpu_ms:.3g} ms",
        ratio=after.cpu_ms / max(floor.cpu_ms, 0.1),
        bar=f"<= {question.bar_ms:g} ms" if question.bar_ms else "",
    )  # fmt: skip
    figure(
        f"{name}: growth", after.cpu_ms / max(before.cpu_ms, 0.1), "x", floor="smaller history",
        ratio=after.rows / max(before.rows, 1), bar="" if question.about == HISTORY
        else f"<= {GROWTH_MAX:g} x",
    )  # fmt: skip
    more = {"rows": after.rows, "rows before": before.rows, "bytes": after.memory_bytes}
    print(f"    {name}: {json.dumps(more)}")


if __name__ == "__main__":
    main()
