"""`python -m runwire_consumers clickhouse`: the worker as a process."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from runwire_consumers import settings as worker_settings
from runwire_consumers.core.errors import Fatal
from runwire_consumers.kafka import schema_ids
from runwire_schemas import kafka_settings, registry
from runwire_schemas.errors import SchemaError
from runwire_schemas.paths import state_dir

EXAMPLE = (
    "example: RUNWIRE_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 python -m runwire_consumers clickhouse"
)
SOURCES = ("kafka", "spool")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m runwire_consumers", description="runwire's workers", epilog=EXAMPLE
    )
    kinds = top.add_subparsers(dest="worker", required=True, metavar="WORKER")
    clickhouse = kinds.add_parser(
        "clickhouse", help="writes records to ClickHouse, each point once", epilog=EXAMPLE
    )
    clickhouse.add_argument(
        "--source",
        choices=SOURCES,
        help="default: kafka when RUNWIRE_KAFKA_BOOTSTRAP_SERVERS is set, else the spool of --dir",
    )
    clickhouse.add_argument("--dir", help="data folder (default: $RUNWIRE_DIR, else user state)")
    clickhouse.add_argument(
        "--url",
        help="http://user:password@host:port/database (default: $RUNWIRE_CLICKHOUSE_URL, else the "
        "embedded engine of --dir)",
    )
    clickhouse.add_argument(
        "--metrics-port",
        type=int,
        help="loopback port of /metrics and /healthz (default: "
        f"{worker_settings.DEFAULT_METRICS_PORT}, a free one when taken; 0 = off)",
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker until a signal; return the exit status."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = worker_settings.from_environment()
        kafka = None
        if arguments.source != "spool":
            kafka = kafka_settings.from_environment(os.environ)
        if arguments.source == "kafka" and kafka is None:
            raise ValueError("--source kafka: set RUNWIRE_KAFKA_BOOTSTRAP_SERVERS to the brokers")
        if kafka is not None:
            asked = registry.from_environment(os.environ, prefix=kafka.topic_prefix)
            schema_ids.resolve_with(asked)
        if arguments.metrics_port is not None:
            settings = replace(settings, metrics_port=arguments.metrics_port)
    except (ValueError, SchemaError) as error:
        print(error, file=sys.stderr)
        return 2
    from runwire_consumers.workers import run_clickhouse

    url = arguments.url or os.environ.get(worker_settings.URL_VARIABLE) or None
    try:
        return run_clickhouse(
            state_dir(arguments.dir),
            url,
            settings,
            kafka=kafka,
        )
    except (Fatal, ValueError, OSError) as error:
        print(f"the worker did not start: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
