"""Figures of a session's faults of artifacts, and the part of the README that shows them."""

from __future__ import annotations

import os
import platform

from faults import results
from faults.objects.verdict import Verdict

SEED = 0
DONE = 0  # tests that began; a session that was cut short shows less than it claims
SEEDS_VARIABLE = "RUNWIRE_FAULTS_OBJECT_SEEDS"
COLUMNS = (
    ("kills", "kills"),
    ("during a transfer", "kills_amid"),
    ("acknowledged", "acknowledged"),
    ("complete", "complete"),
    ("not acknowledged", "unacknowledged"),
    ("stored anyway", "there_all_the_same"),
    ("looks", "looks"),
    ("parts, transfers before the sweep", ""),
)
_rows: dict[tuple[str, str], tuple[int, Verdict]] = {}


def note(what: str, done: str, verdict: Verdict) -> None:
    """Keep the figures of a test for the report, and print them; equal tests are added up."""
    print(f"{what}: {done}; {verdict}")
    seeds, known = _rows.get((what, done), (0, Verdict()))
    _rows[what, done] = seeds + 1, known + verdict


def write(wanted: int) -> None:
    """Replace the part of the README when asked to and all tests that were wanted ran."""
    if not os.environ.get(results.VARIABLE) or not _rows:
        return
    if wanted > DONE:
        print(f"{DONE} of {wanted} tests ran: the README stays as it was")
        return
    results.replace_part("objects", document())


def _command() -> str:
    seeds = os.environ.get(SEEDS_VARIABLE)
    fewer = f"{SEEDS_VARIABLE}={seeds} " if seeds else ""
    return (
        f"RUNWIRE_FAULTS=long {results.VARIABLE}=1 {fewer}RUNWIRE_FAULTS_SEED={SEED} "
        "python -m pytest tests/faults/objects"
    )


def document() -> str:
    """The part of the README as text."""
    names = [name for name, _ in COLUMNS]
    lines = [
        "## Artifacts and checkpoints",
        "",
        (
            "`objects/`: real trainers, agents, object workers, brokers and stores. `trainer.py` "
            "keeps a ledger of logged and acknowledged artifacts, and overwrites its files as soon "
            "as a call returned; `observer.py` polls the store with the plain client and hashes "
            "every object that becomes visible; `verdict.py` compares ledgers, store and "
            "`v_artifacts`, and lists the leftovers after the sweep. Written by:"
        ),
        "",
        "```",
        _command(),
        "```",
        "",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, Kafka 4.3.1, versitygw and",
        "MinIO on the same machine; files of 200 MB and small ones.",
        "",
        f"| test | done | seeds | {' | '.join(names)} | **wrong or left** |",
        f"|---|---|---:|{'---:|' * (len(names) + 1)}",
    ]
    for (what, done), (seeds, verdict) in _rows.items():
        figures = [_figure(verdict, name) for _, name in COLUMNS]
        lines.append(
            f"| {what} | {done} | {seeds} | {' | '.join(figures)} | {len(verdict.faults)} |"
        )
    lines += [
        "",
        "*Stored anyway*: calls that had not returned when their trainer died, but were already",
        "committed. *Parts, transfers*: leftovers of interrupted transfers in the store before the",
        "sweep; after it there are none. MinIO does not list its transfers, so only versitygw and",
        "the folder show them. The control publishes the manifest before the content and must be",
        "detected, as must every manipulation of a store in `test_object_oracle.py`.",
        "",
    ]
    return "\n".join(lines)


def _figure(verdict: Verdict, name: str) -> str:
    if not name:
        return f"{verdict.left_in_staging}, {verdict.left_unfinished}"
    return f"{getattr(verdict, name):,}"
