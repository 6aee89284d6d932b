"""Runner of all benchmarks, each in its own process; it writes RESULTS.md."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from measure import machine, three_digits

HERE = Path(__file__).parent
SCRIPTS = (
    *("caller_cost", "loop_slowdown", "ingest", "kafka_ingest", "freshness", "trickle"),
    *("series_query", "scale_views", "agent_cost", "many_writers"),
    *("checkpoint_save", "artifact_capture", "object_store", "object_routes", "idle"),
)
HEAD = """# Results

Written by `make bench`, with three significant digits; each ratio is to a floor of the same run.

Machine: {machine}. Date: {date}.

| figure | value | unit | floor | ratio to it | bar |
|---|--:|---|---|--:|---|
"""


def rows_of(script: str) -> list[str]:
    """Run one script and return its figures as table rows."""
    print(f"--- {script}", flush=True)
    done = subprocess.run(
        [sys.executable, str(HERE / f"{script}.py")], capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        raise SystemExit(f"{script} failed with status {done.returncode}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [
        f"| {f['figure']} | {three_digits(f['value'])} | {f['unit']} | {f['floor']} | "
        f"{three_digits(f['ratio'])} | {f['bar']} |"
        for f in lines
    ]


def main() -> None:
    """Run all and write the page."""
    chosen = sys.argv[1:] or SCRIPTS
    rows = [row for script in chosen for row in rows_of(script)]
    head = HEAD.format(machine=machine(), date=datetime.now(UTC).date())
    if not sys.argv[1:]:
        notes = HERE / "NOTES.md"
        tail = "\n" + notes.read_text("utf-8") if notes.exists() else ""
        (HERE / "RESULTS.md").write_text(head + "\n".join(rows) + "\n" + tail, "utf-8")


if __name__ == "__main__":
    main()
