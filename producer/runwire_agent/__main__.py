"""`python -m runwire_agent`: the agent of a data root, without the `runwire` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from runwire_agent.commands import agent
from runwire_schemas.errors import RunwireError


def main(argv: Sequence[str] | None = None) -> int:
    """Be the agent, as `runwire agent` is; 1 and one sentence when it cannot start.

    Blocks: until a signal, or until idle.
    """
    parser = argparse.ArgumentParser(
        prog="python -m runwire_agent", description=agent.SUMMARY, allow_abbrev=False
    )
    parser.add_argument("--dir", help="data root (default: RUNWIRE_DIR or the state folder)")
    agent.add_arguments(parser)
    try:
        return agent.run(parser.parse_args(argv))
    except RunwireError as error:
        sys.stderr.write(f"runwire agent: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
