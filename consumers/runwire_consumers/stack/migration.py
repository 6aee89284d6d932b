"""The process that migrates the embedded engine's database, and prints what it applied."""

from __future__ import annotations

import argparse
import sys

from runwire_consumers.clickhouse.client import MIGRATION_ANSWER_S, connect
from runwire_consumers.clickhouse.engine import read_connection
from runwire_consumers.clickhouse.migrate import apply
from runwire_disk import paths
from runwire_schemas.errors import RunwireError


def main(argv: list[str] | None = None) -> int:
    """Apply the missing migrations; a line each. Raises: what is no sentence of ours."""
    parser = argparse.ArgumentParser(prog="runwire-migration")
    parser.add_argument("--dir", required=True)
    root = paths.state_dir(parser.parse_args(argv).dir)
    connection = read_connection(paths.embedded_dir(root))
    assert connection is not None, "the engine is ready before it is migrated"
    try:
        client = connect(connection.url, create=True, answer_s=MIGRATION_ANSWER_S)
        try:
            for name in apply(client):
                print(name)
        finally:
            client.close()
    except RunwireError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
