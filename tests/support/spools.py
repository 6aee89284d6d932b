"""Builders of spool writers for tests."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from runwire.metrics.log import MetricLog
from runwire_disk.spool.format import Meta
from runwire_disk.spool.writer import SpoolWriter


def meta(**overrides: Any) -> Meta:
    """Identity of a lone trainer."""
    fields: dict[str, Any] = {
        "writer": uuid.uuid4().hex,
        "role": "trainer",
        "project": "tests",
        "run_id": "run-1",
        "attempt": "attempt-1",
        "rank": 0,
        "world_size": 1,
        "host": "testhost",
        "boot_id": "boot",
        "pid_ns": "ns",
        "pid": os.getpid(),
        "started_at_ns": 1_700_000_000_000_000_000,
    }
    return Meta(**{**fields, **overrides})


def new_writer(root: Path, *, quota_bytes: int = 2**31, **overrides: Any) -> SpoolWriter:
    """A writer with a folder of its own under `root`."""
    return SpoolWriter.create(root, meta(**overrides), quota_bytes=quota_bytes)


def metric_log(writer: SpoolWriter, failures: list[tuple[str, str]] | None = None) -> MetricLog:
    """A metric log that collects refusals in `failures`, or raises them without one."""

    def report(kind: str, exc: BaseException, *, hint: str = "", name: str = "") -> None:
        if failures is None:
            raise exc
        failures.append((kind, f"{name} {exc} {hint}"))

    def on_text(name: str, text: str, step: int) -> None:
        writer.append_json(
            "log", {"stream": "text", "name": name, "level": "info", "step": step, "text": text}
        )

    return MetricLog(writer, report=report, on_text=on_text)
