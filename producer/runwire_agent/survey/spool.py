"""The spool of a data root: points that wait per run, trainers without an agent, damage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runwire_agent.survey.destinations import survey_agents
from runwire_disk.spool.format import SERIES, SpoolError, destination_of, read_cursor, segment_name
from runwire_disk.spool.progress import progress
from runwire_disk.spool.reader import list_folders, read_meta, writer_alive
from runwire_disk.spool.scan import open_scan
from runwire_disk.spool.series_reader import segment_numbers
from runwire_disk.survey import OK, WARN, Finding, Section, labelled

VERIFY_BYTES_MAX = 256 << 20  # more than this takes seconds: `spool verify` reads it all


def survey_spool(root: Path) -> Section:
    """Return the runs that have folders in the spool."""
    runs = pending_runs(root)
    lines = [] if runs else [labelled("spool", "empty: everything logged here is delivered")]
    lines += [
        f"  run {run['run_id']} ({run['project']}): {run['pending_points']:,} points pending, "
        f"{run['spool_bytes'] / 1e6:.1f} MB, {run['live_writers']} of {run['writers']} writers live"
        for run in runs
    ]
    return Section(name="spool", order=60, facts={"runs": runs}, lines=lines)


def check_spool(root: Path) -> Section:
    """Check that live trainers have an agent, and that segments are sound."""
    runs = pending_runs(root)
    points = sum(run["pending_points"] for run in runs)
    waiting = Finding(OK, "spool", f"{len(runs)} runs, {points:,} points pending")
    live = sum(run["live_writers"] for run in runs)
    findings = [_agent_finding(root, live), waiting, _damage_finding(root)]
    return Section(name="spool", order=40, findings=findings)


def pending_runs(root: Path) -> list[dict[str, Any]]:
    """Return per run its writers in the spool, and its accepted points that are not delivered."""
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    for folder in list_folders(root):
        try:
            meta, done, cursor = read_meta(folder), progress(folder), read_cursor(folder)
        except (SpoolError, OSError):
            continue  # delivered and removed meanwhile, or damaged: `runwire doctor` reports it
        if meta.role != "trainer":
            continue
        entry = runs.setdefault(
            (meta.project, meta.run_id),
            {
                "project": meta.project,
                "run_id": meta.run_id,
                "destination": destination_of(meta),
                "writers": 0,
                "live_writers": 0,
                "pending_points": 0,
                "spool_bytes": 0,
                "last_step": None,
            },
        )
        entry["writers"] += 1
        entry["live_writers"] += writer_alive(folder)
        passed = max(cursor.accepted, cursor.skip_accepted)
        entry["pending_points"] += max(0, done.accepted - passed)
        entry["spool_bytes"] += done.bytes
        if done.last_step is not None:
            entry["last_step"] = max(done.last_step, entry["last_step"] or done.last_step)
    return list(runs.values())


def _agent_finding(root: Path, live_writers: int) -> Finding:
    agent = survey_agents(root).facts["agent"]
    if agent["alive"]:
        return Finding(OK, "agent", f"pid {agent['pid']}")
    if live_writers:
        advice = "`runwire agent` is one; without it a killed trainer is noticed late"
        return Finding(WARN, "agent", f"none, but {live_writers} trainers live", advice)
    return Finding(OK, "agent", "none needed: no trainer lives")


def _damage_finding(root: Path) -> Finding:
    """Look at the segments of ended writers; a live one is judged by its reader."""
    budget, damaged = VERIFY_BYTES_MAX, []
    for folder in list_folders(root):
        try:
            read_meta(folder)
            if writer_alive(folder):
                continue
            for series in SERIES:
                for number in segment_numbers(folder, series):
                    path = folder / segment_name(series, number)
                    budget -= path.stat().st_size
                    if budget >= 0 and _is_damaged(path, series, number):
                        damaged.append(f"{folder.name}/{path.name}")
        except FileNotFoundError:
            continue  # delivered and removed meanwhile
        except (SpoolError, OSError) as error:
            damaged.append(str(error))
    if damaged:
        advice = (
            "`runwire spool verify` lists the damage; it goes to the dead letters, and everything "
            "else is delivered"
        )
        return Finding(WARN, "spool damage", f"{len(damaged)}: {damaged[0]}", advice)
    partly = "" if budget >= 0 else " in the first 256 MiB; `runwire spool verify` reads all"
    return Finding(OK, "spool damage", f"none{partly}")


def _is_damaged(path: Path, series: str, number: int) -> bool:
    scan = open_scan(path, series=series, number=number, expected=0)
    scan.damages.clear()  # earlier segments were delivered
    try:
        while scan.step(1 << 20, sealed=True):
            pass
        return bool(scan.damages or scan.header_error)
    finally:
        os.close(scan.fd)
