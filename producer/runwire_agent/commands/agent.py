"""`runwire agent`: the agent in the foreground; it watches, and ships when brokers are set."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import TYPE_CHECKING

from runwire_disk.agents.lock import ACQUIRE_S

if TYPE_CHECKING:
    from types import FrameType

    from runwire_agent.agent import Agent

SUMMARY = "watch trainers and ship their spool in the foreground (`init` normally starts it)"
EXAMPLE = "RUNWIRE_KAFKA_BOOTSTRAP_SERVERS=broker:9092 runwire agent --dir /scratch/telemetry"
IDLE_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `agent`."""
    parser.add_argument(
        "--exit-when-idle",
        dest="exit_when_idle_s",
        action="store_const",
        const=IDLE_S,
        help=f"exit when no trainer has lived for {IDLE_S:g} s",
    )
    parser.add_argument(
        "--exit-when-idle-s",
        dest="exit_when_idle_s",
        type=float,
        metavar="S",
        help="exit when no trainer has lived for S seconds",
    )
    parser.add_argument(
        "--wait-s",
        type=float,
        default=ACQUIRE_S,
        metavar="S",
        help="how long to wait for an agent that ends (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Be the agent until a signal, or until idle; also 0 when another agent is running.

    Blocks: until then. Raises: CommandError when the data root cannot be used.
    """
    from runwire_agent.agent import agent_lock, make_agent
    from runwire_disk.descriptors import allow_many_files
    from runwire_disk.settings import NodeSettings
    from runwire_schemas.errors import CommandError

    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s agent %(process)d %(levelname)s %(message)s",
    )
    allow_many_files()
    settings = NodeSettings.resolve({"dir": args.dir})
    lock = agent_lock(settings)
    try:
        taken = lock.acquire(args.wait_s)
    except OSError as error:
        raise CommandError(
            f"cannot use {settings.root}: {error.strerror or error}. Give a writable local folder "
            "through --dir or RUNWIRE_DIR."
        ) from error
    if not taken:
        sys.stderr.write(
            f"runwire agent: process {lock.holder()} already watches {settings.root} "
            "(it holds the lock); nothing to do.\n"
        )
        return 0
    agent = make_agent(lock, settings, exit_when_idle_s=args.exit_when_idle_s)
    _end_on_signals(agent)
    agent.run()
    return 0


def _end_on_signals(agent: Agent) -> None:
    """End on SIGTERM and SIGINT; a second signal skips the last deliveries."""

    def end(_signum: int, _frame: FrameType | None) -> None:
        if agent.stop.is_set():
            agent.hurry.set()
        agent.stop.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        # A shell that starts it in the background ignores SIGINT for it: leave that.
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, end)
