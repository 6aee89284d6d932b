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
    ("amid a transfer", "kills_amid"),
    ("acknowledged", "acknowledged"),
    ("complete", "complete"),
    ("not acknowledged", "unacknowledged"),
    ("there all the same", "there_all_the_same"),
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
            "keeps a ledger of what it logged and what was acknowledged, and spoils its files as "
            "soon as a call returned; `observer.py` looks at the store all the time with the plain "
            "client and hashes whatever becomes visible; `verdict.py` compares ledgers, store and "
            "`v_artifacts`, and looks for what is left after the sweep. Written by:"
        ),
        "",
        "```",
        _command(),
        "```",
        "",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, Kafka 4.3.1, versitygw and",
        "MinIO on the same machine; contents of 200 MB beside small ones.",
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
        "*There all the same*: calls that were under way when their trainer died and had been",
        "committed by then. *Parts, transfers*: what interrupted transfers had left in the store",
        "before the sweep with the set time; after it nothing is left. MinIO does not list its",
        "transfers, so those are seen on versitygw and in the folder alone. The control publishes",
        "the manifest before the content and must be noticed, as must every tampering of a store",
        "in `test_object_oracle.py`.",
        "",
    ]
    return "\n".join(lines)


def _figure(verdict: Verdict, name: str) -> str:
    if not name:
        return f"{verdict.left_in_staging}, {verdict.left_unfinished}"
    return f"{getattr(verdict, name):,}"
