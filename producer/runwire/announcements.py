"""Lines on stderr about a run: one at its start, one at its end; none with RUNWIRE_QUIET."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from runwire_disk.interrupts import reraise_interrupt
from runwire_schemas.identity import DEFAULT_PROJECT

if TYPE_CHECKING:
    from runwire.metrics.flush import FlushReport
    from runwire.process.exits import Outcome
    from runwire.settings import Settings
    from runwire_disk.spool.format import Meta

__all__ = ["say", "say_finished", "say_started"]


def say_started(settings: Settings, meta: Meta, *, name: str | None, first_step: int) -> None:
    """Print project, run id and the command that shows the run; rank 0 speaks for the job."""
    if meta.rank:
        return
    title = f"run {meta.run_id}" if name in (None, meta.run_id) else f"run {meta.run_id} ({name})"
    ranks = f", {meta.world_size} ranks" if meta.world_size > 1 else ""
    resumed = f", continues at step {first_step}" if first_step else ""
    show = f"runwire show {shlex.quote(meta.run_id)}"
    if meta.project != DEFAULT_PROJECT:
        show += f" --project {shlex.quote(meta.project)}"
    say(settings, f"project {meta.project}, {title}{ranks}{resumed}. Look at it with: {show}")


def say_finished(settings: Settings, meta: Meta, outcome: Outcome, report: FlushReport) -> None:
    """Print status, points stored and points dropped."""
    if meta.rank and not report.dropped:
        return
    who = f"run {meta.run_id}" + (f" rank {meta.rank}" if meta.rank else "")
    waiting = f", {report.pending:,} wait in the spool" if report.pending else ""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items())
    dropped = f", {sum(report.dropped.values()):,} dropped ({reasons})" if reasons else ""
    stored = f"{report.acked:,} of {report.spooled:,} points stored"
    say(settings, f"{who} {outcome.status}: {stored}{waiting}{dropped or ', none dropped'}.")


def say(settings: Settings, sentence: str) -> None:
    """Print one line, unless RUNWIRE_QUIET or mode "disabled". Raises: nothing but interrupts."""
    if settings.quiet or settings.mode == "disabled" or sys.stderr is None:
        return
    try:
        sys.stderr.write(f"runwire: {sentence}\n")
    except Exception as error:  # a closed or replaced stderr must not end the training
        reraise_interrupt(error)
