"""The housekeeper of a stack: a short process now and then, so that idle stacks hold no memory.

`python -m runwire_consumers.stack.housekeeper --dir DIR` is one round: the rules of retention.toml,
then the rows of deleted runs. It may be killed anywhere; the next round resumes.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runwire_consumers import settings as worker_settings
from runwire_consumers.stack import lifeline, logs
from runwire_disk import paths
from runwire_schemas.errors import RunwireError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


class Housekeeper:
    """Starts a round when it is due, and never two at once. Units: seconds, one monotonic clock."""

    def __init__(self, root: Path, every_s: float) -> None:
        self._root = root
        self._every_s = every_s
        self._process: subprocess.Popen[bytes] | None = None
        self._due_at = 0.0

    def look(self, now: float) -> None:
        """Start a round if one is due. Raises: OSError when no process can be started."""
        if not self._every_s or now < self._due_at:
            return
        if self._process is not None and self._process.poll() is None:
            return
        self._due_at = now + self._every_s
        log = logs.open_log(logs.logs_dir(self._root) / "housekeeper.log")
        # This stack's rounds are about this stack's engine, even if queries go to another server.
        environment = {k: v for k, v in os.environ.items() if k != "RUNWIRE_CLICKHOUSE_URL"}
        try:
            self._process = subprocess.Popen(
                lifeline.command(__name__, "--dir", str(self._root), signum=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def stop(self) -> None:
        """End a round that runs: the next one resumes. Blocks: for a moment."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def do_round(root: Path, settings: worker_settings.WorkerSettings) -> list[str]:
    """Apply the rules, then purge; return what was done, as sentences.

    Raises: StackError. Blocks: for the statements, not for merges.
    """
    from runwire_consumers.housekeeping.purge import purge, spooled_runs
    from runwire_consumers.housekeeping.rules import RuleError
    from runwire_consumers.stack.access import opened_client
    from runwire_consumers.stack.state import StackError

    with opened_client(root) as client:
        try:
            done = _apply_rules(root, client)
        except (RuleError, StackError) as error:  # the purge needs neither rules nor store
            done = [f"the rules were not applied, or not all of them: {error}"]
        report = purge(client, forget_s=settings.forget_s, spooled=spooled_runs(root))
    if report.sent:
        done.append(f"removing rows of {len(report.left)} runs from {', '.join(report.sent)}")
    done += [f"table {table}: {why}" for table, why in report.waiting.items() if why]
    done += [f"run {run_id} of {project} has no row left" for project, run_id in report.settled]
    return done


def _apply_rules(root: Path, client: Client) -> list[str]:
    """Return what the rules did, as sentences. Raises: RuleError; StackError of the store."""
    from runwire_consumers.housekeeping.retain import apply_plan, plan
    from runwire_consumers.housekeeping.rules import RULES_FILE, read_rules
    from runwire_consumers.stack.access import opened_store

    planned = [it for it in plan(client, read_rules(root / RULES_FILE)) if not it.kept_for]
    if not planned:
        return []
    with opened_store(root) as store:
        done = apply_plan(client, store, planned)
    return [f"{it.rule.text}: run {it.run_id} of {it.project}" for it in done]


def main(argv: Sequence[str] | None = None) -> int:
    """Be one round; the exit status says whether it could be done."""
    parser = argparse.ArgumentParser(prog="runwire-housekeeper")
    parser.add_argument("--dir", required=True)
    args = parser.parse_args(argv)
    try:
        done = do_round(paths.state_dir(args.dir), worker_settings.from_environment())
    except (RunwireError, OSError) as error:
        done = [f"this round failed and is repeated: {error}"]
        status = 1
    else:
        status = 0
    for line in done:
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} housekeeper {line}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
