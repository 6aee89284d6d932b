"""Real engine and worker for a benchmark, in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.engine import Engine
from runwire_consumers.clickhouse.migrate import apply
from runwire_disk.paths import embedded_dir


@contextlib.contextmanager
def engine() -> Iterator[tuple[Path, Any]]:
    """Start an engine and apply the migrations; yield (data root, client)."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = Engine(embedded_dir(root))
        started.start()
        try:
            client = connect(started.wait_ready().url, create=True)
            apply(client)
            yield root, client
        finally:
            started.stop()


@contextlib.contextmanager
def worker(root: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker on the spool of `root`, or on the brokers of the environment."""
    log = (root / "worker.log").open("wb")
    command = [sys.executable, "-m", "runwire_consumers", "clickhouse", "--metrics-port", "0"]
    process = subprocess.Popen(
        [*command, "--dir", str(root)], env=os.environ | environ, stdout=log, stderr=log
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
        log.close()
