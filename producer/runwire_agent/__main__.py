"""`python -m runwire_agent`: be the agent of a data root."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from runwire_agent.agent import agent_of
from runwire_disk.agents.lock import ACQUIRE_S
from runwire_disk.settings import NodeSettings
from runwire_schemas.errors import ConfigError

IDLE_S = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Watch until a signal, or until idle if asked. Exit status 0 too when another agent watches.

    Blocks: until then.
    """
    args = _parse(argv)
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s agent %(process)d %(levelname)s %(message)s",
    )
    try:
        settings = NodeSettings.resolve({"dir": args.dir})
    except ConfigError as error:
        sys.stderr.write(f"runwire agent: {error}\n")
        return 1
    agent = agent_of(settings.root, settings, exit_when_idle_s=args.exit_when_idle_s)
    try:
        taken = agent.lock.acquire(args.wait_s)
    except OSError as error:
        sys.stderr.write(
            f"runwire agent: cannot use {agent.root}: {error.strerror or error}. Give a writable "
            "local folder through --dir or RUNWIRE_DIR.\n"
        )
        return 1
    if not taken:
        sys.stderr.write(
            f"runwire agent: process {agent.lock.holder() or 'unknown'} already watches "
            f"{agent.root} (it holds the lock); nothing to do.\n"
        )
        return 0

    def end(_signum: int, _frame: FrameType | None) -> None:
        if agent.stop.is_set():
            agent.hurry.set()
        agent.stop.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        # A shell that starts it in the background ignores SIGINT for it: leave that.
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, end)
    agent.run()
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m runwire_agent",
        description="Watch the trainers of this machine that write under a data root; ship their "
        "spool when RUNWIRE_KAFKA_BOOTSTRAP_SERVERS is set.",
        allow_abbrev=False,
    )
    parser.add_argument("--dir", help="data root (default: RUNWIRE_DIR or the state folder)")
    parser.add_argument(
        "--exit-when-idle",
        dest="exit_when_idle_s",
        action="store_const",
        const=IDLE_S,
        help=f"end when no trainer has lived for {IDLE_S:g} s",
    )
    parser.add_argument(
        "--exit-when-idle-s", dest="exit_when_idle_s", type=float, help="the same with a time"
    )
    parser.add_argument(
        "--wait-s",
        type=float,
        default=ACQUIRE_S,
        help="how long to wait for an agent that ends (default: %(default)g)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
