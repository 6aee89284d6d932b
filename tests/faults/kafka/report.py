"""Figures of a session's Kafka fault tests, and the part of the README that shows them."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from faults import results
from faults.kafka.pipeline import Pipeline
from faults.verdict import Verdict

SEED = 0
REPLAYED = "writing batch "
FENCED = "the group continued without this worker"
COLUMNS = (
    ("points acknowledged", "accepted"),
    ("**lost**", "lost"),
    ("**twice in `v_metrics`**", "duplicates"),
    ("inserted twice", "inserted_twice"),
    ("dead letters", "dead_letters"),
)


@dataclass(frozen=True)
class Row:
    """One test: what was done, what came out."""

    what: str
    done: str
    replays: int
    verdict: Verdict


_rows: list[Row] = []


def note(what: str, done: str, pipeline: Pipeline, verdict: Verdict) -> None:
    """Keep the figures of a test for the report, and print them."""
    row = Row(what, done, pipeline.count_in_logs(REPLAYED), verdict)
    _rows.append(row)
    print(f"{what}: {done}; {row.replays} batches written again; {verdict}")


def write() -> None:
    """Replace the Kafka part of the README when asked to."""
    if os.environ.get(results.VARIABLE) and _rows:
        results.replace_part("kafka", document(_rows))


def document(rows: list[Row]) -> str:
    """The Kafka part of the README as text."""
    names = [name for name, _ in COLUMNS]
    lines = [
        "## Kafka",
        "",
        (
            "`kafka/`: real brokers, real worker processes, a real engine. `feed.py` sends "
            "records and keeps a ledger of those that the brokers acknowledged; `pipeline.py` "
            "starts and kills the processes; `verdict.py` compares the ledger with the store. "
            "Written by:"
        ),
        "",
        "```",
        (
            f"RUNWIRE_FAULTS=long {results.VARIABLE}=1 RUNWIRE_FAULTS_SEED={SEED} "
            "python -m pytest tests/faults/kafka"
        ),
        "```",
        "",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, Kafka 4.3.1 and the embedded",
        "engine on the same machine.",
        "",
        f"| test | done | batches written again | {' | '.join(names)} |",
        f"|---|---|---:|{'---:|' * len(names)}",
    ]
    for row in rows:
        figures = " | ".join(f"{getattr(row.verdict, name):,}" for _, name in COLUMNS)
        lines.append(f"| {row.what} | {row.done} | {row.replays} | {figures} |")
    lines += [
        "",
        "*Inserted twice* is counted by a materialized view with `sum()`, which no merge and no",
        "natural key can mend: it is zero only where intents and tokens work. The control is",
        "`tests/support/harness_worker.py --unsafe`: random tokens, no intents, offsets",
        "committed at every 20th round only.",
        "",
    ]
    return "\n".join(lines)
