"""Writes the README of this folder from a long campaign, when RUNWIRE_FAULTS_REPORT is set."""

from __future__ import annotations

import os
import platform
from collections import Counter
from pathlib import Path

from faults.verdict import Verdict

Outcome = tuple[Verdict, Counter[str]]
VARIABLE = "RUNWIRE_FAULTS_REPORT"
PATH = Path(__file__).parent / "README.md"
ROWS = (
    ("points acknowledged by `log()`", "accepted"),
    ("points of calls in flight when their process died", "in_flight"),
    ("points stored, by natural key in `v_metrics`", "stored"),
    ("**points lost**", "lost"),
    ("**points twice in `v_metrics`**", "duplicates"),
    ("rows inserted twice, by a sum that no merge can hide", "inserted_twice"),
    ("rows that FINAL removes from the raw tables at the end", "removed_by_final"),
    ("sum of `batches`", "batches_sum"),
    ("repeated rows of `batches`", "batches_repeated"),
    ("series whose rollup differs from the points", "rollup_mismatches"),
    ("texts stored", "texts"),
    ("parameters stored", "params"),
    ("dead letters", "dead_letters"),
)

NOTES = (
    "The control is `tests/support/harness_worker.py --unsafe`: no intents, random insert tokens,",
    "cursors saved at every 20th batch. It shows that the harness sees",
    "duplicates; that `v_metrics` has none even so is the natural key at work.",
    "",
    "Trainers log from one thread, from four, and from two forked children and their parent:",
    "1 to 8,700 metrics per call (20 B to 70 kB), texts up to 65,000 characters, and parameters.",
    "Most kills of worker and engine come within 60 ms of a new line in the journal, during an",
    "insert. `RUNWIRE_FAULTS_KILLS` sets the number of kills.",
    "",
    "Other files: `test_spool_kill.py` kills trainers and reads the spool without an engine.",
    "`test_disk_faults.py` fills the disk, reaches the quota, deletes the spool and removes its",
    "folder, and checks the message that the user gets. `test_exit_matrix.py` ends a trainer in",
    "every possible way.",
)


def write(safe: Outcome, control: Outcome, *, seed: int) -> None:
    """Print the table, and replace the README when asked to."""
    text = document(safe, control, seed=seed)
    print(text)
    if os.environ.get(VARIABLE):
        replace_part("spool", text)


def replace_part(name: str, text: str) -> None:
    """Put one part of the README in the place of what it was before; the others stay."""
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->\n"
    old = PATH.read_text("utf-8")
    if begin not in old:
        old += f"\n{begin}{end}"
    head, rest = old.split(begin)
    PATH.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}", "utf-8")


def document(safe: Outcome, control: Outcome, *, seed: int) -> str:
    """The README as text."""
    lines = [
        "# Faults",
        "",
        (
            "Real processes, killed and starved on purpose. `fuzz_trainer.py` logs the points of "
            "`ledger.py` and acknowledges each call that returned; `campaign.py` sends SIGKILL to "
            "trainer, worker and engine, driven by one seed; `verdict.py` compares the "
            "acknowledgements with the store."
        ),
        "",
        "The long form writes this page:",
        "",
        "```",
        (
            f"RUNWIRE_FAULTS=long {VARIABLE}=1 RUNWIRE_FAULTS_SEED={seed} "
            "python -m pytest tests/faults/test_kill_fuzz.py -k hundred -s"
        ),
        "```",
        "",
        "A seed repeats the plan (victims, modes, delays), not the scheduling of the kernel.",
        f"Python {platform.python_version()}, {os.cpu_count()} cores, embedded engine.",
        "",
        "| | exactly-once | control: protocol off |",
        "|---|---:|---:|",
        f"| kills | {safe[1].total()} | {control[1].total()} |",
    ]
    for meaning, name in ROWS:
        figures = (getattr(outcome[0], name) for outcome in (safe, control))
        lines.append(f"| {meaning} | " + " | ".join(f"{figure:,}" for figure in figures) + " |")
    lines += ["", "Kills by victim (exactly-once / control):", ""]
    for victim in sorted(set(safe[1]) | set(control[1])):
        lines.append(f"* {victim}: {safe[1][victim]} / {control[1][victim]}")
    return "\n".join([*lines, "", *NOTES, ""])
