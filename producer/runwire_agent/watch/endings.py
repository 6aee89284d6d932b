"""Events that an agent writes about a trainer: its heartbeat, and the end it did not record."""

from __future__ import annotations

import time
from pathlib import Path

from runwire_disk.files import replace_json
from runwire_disk.spool.format import ENDED_FILE, Meta
from runwire_disk.spool.progress import Progress

__all__ = ["end_fields", "heartbeat_fields", "mark_ended"]

# The trainer's signal handler shows this phase before it returns to the trainer's own handler.
PREEMPTING_PHASE = "preempting"


def heartbeat_fields(
    meta: Meta, progress: Progress, *, phase: str | None = None
) -> dict[str, object]:
    """Return the fields of one Heartbeat event about the writer `meta`."""
    return _identity(meta) | {
        "last_step": progress.last_step,
        "last_progress_at_ns": progress.last_at_ns,
        "phase": progress.phase if phase is None else phase,
        "accepted": progress.accepted,
        "dropped": dict(progress.dropped),
        "host": meta.host,
        "pid": meta.pid,
        "spool_bytes": progress.bytes,
    }


def end_fields(
    meta: Meta, progress: Progress, *, seq: int, reporter: str, rebooted: bool
) -> dict[str, object]:
    """Return the fields of the finished event for a writer that did not write its own.

    `seq` is the writer's next lifecycle number: greater than anything it wrote itself.
    """
    preempted = progress.phase == PREEMPTING_PHASE
    return _identity(meta) | {
        "event": "finished",
        "reporter": reporter,
        "seq": seq,
        "status": "preempted" if preempted else "killed",
        "status_reason": _reason(meta, progress, preempted=preempted, rebooted=rebooted),
        "last_step": progress.last_step,
        "accepted": progress.accepted,
        "dropped": dict(progress.dropped),
    }


def mark_ended(folder: Path, *, reporter: str = "", status: str, reason: str) -> None:
    """Leave ended.json, so that the end is recorded once; harmless when the folder is gone."""
    end = {"at_ns": time.time_ns(), "reporter": reporter, "status": status, "reason": reason}
    try:
        replace_json(folder / ENDED_FILE, end)
    except FileNotFoundError:
        return  # delivered and removed meanwhile


def _identity(meta: Meta) -> dict[str, object]:
    return {
        "project": meta.project,
        "run_id": meta.run_id,
        "attempt": meta.attempt,
        "writer": meta.writer,
        "rank": meta.rank,
    }


def _reason(meta: Meta, progress: Progress, *, preempted: bool, rebooted: bool) -> str:
    who = f"process {meta.pid} on host {meta.host}"
    if rebooted:
        what = f"{who} ended when the machine went down or was restarted"
    elif preempted:
        what = f"{who} received a pre-emption signal and ended before it finished the run"
    else:
        what = f"{who} ended without finishing the run (killed, out of memory, or crashed)"
    if progress.last_at_ns is None:
        return f"{what}; it had logged nothing"
    before_s = max(0.0, (time.time_ns() - progress.last_at_ns) / 1e9)
    return f"{what}; last step {progress.last_step}, {before_s:.1f} s before this was noticed"
