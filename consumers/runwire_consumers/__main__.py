"""`python -m runwire_consumers clickhouse | objects`: a worker as a process."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from runwire_consumers import settings as worker_settings
from runwire_consumers.core.errors import Fatal
from runwire_consumers.kafka.schema_ids import kafka_with_registry
from runwire_consumers.settings import WorkerSettings
from runwire_disk.paths import state_dir
from runwire_schemas.connections import s3 as s3_settings
from runwire_schemas.connections.clickhouse import ClickHouseSettings
from runwire_schemas.errors import SchemaError
from runwire_store.store import StoreError

EXAMPLE = (
    "example: RUNWIRE_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 python -m runwire_consumers clickhouse"
)
OBJECTS_EXAMPLE = (
    "example: RUNWIRE_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 RUNWIRE_S3_ENDPOINT=http://minio:9000 "
    "RUNWIRE_S3_ACCESS_KEY=runwire RUNWIRE_S3_SECRET_KEY_FILE=secret.txt "
    "python -m runwire_consumers objects"
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
    _add_metrics_port(clickhouse, worker_settings.DEFAULT_METRICS_PORT)
    objects = kinds.add_parser(
        "objects",
        help="assembles artifacts from their pieces, in the object store",
        epilog=OBJECTS_EXAMPLE,
    )
    objects.add_argument(
        "--dir",
        help="data folder: holds the store when RUNWIRE_S3_ENDPOINT is not set (default: "
        "$RUNWIRE_DIR, else user state)",
    )
    _add_metrics_port(objects, worker_settings.OBJECT_WORKER.metrics_port)
    return top


def _add_metrics_port(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--metrics-port",
        type=int,
        help="loopback port of /metrics and /healthz "
        f"(default: {default}, a free one when taken; 0 = off)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker until a signal; return the exit status."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    work = _objects if arguments.worker == "objects" else _clickhouse
    try:
        run = work(arguments)
    except (ValueError, SchemaError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        return run()
    except (Fatal, StoreError, ValueError, OSError) as error:
        print(f"the worker did not start: {error}", file=sys.stderr)
        return 1


def _clickhouse(arguments: argparse.Namespace) -> Callable[[], int]:
    settings = _with_port(worker_settings.from_environment(), arguments)
    kafka = None
    if arguments.source != "spool":
        kafka = kafka_with_registry(os.environ)
    if arguments.source == "kafka" and kafka is None:
        raise ValueError("--source kafka: set RUNWIRE_KAFKA_BOOTSTRAP_SERVERS to the brokers")
    root = state_dir(arguments.dir)
    login = ClickHouseSettings.from_environment(os.environ)
    from runwire_consumers.compose.workers import clickhouse_parts, configured_url, run_clickhouse

    def run() -> int:
        parts = clickhouse_parts(
            root,
            lambda: arguments.url or configured_url(os.environ),
            settings,
            is_login_renewable=bool(login.password_file) and not arguments.url,
            kafka=kafka,
        )
        return run_clickhouse(root, settings, parts)

    return run


def _objects(arguments: argparse.Namespace) -> Callable[[], int]:
    defaults = worker_settings.OBJECT_WORKER
    settings = _with_port(worker_settings.from_environment(defaults=defaults), arguments)
    kafka, s3 = kafka_with_registry(os.environ), s3_settings.from_environment(os.environ)
    if kafka is None:
        raise ValueError(
            "the object worker reads Kafka: set RUNWIRE_KAFKA_BOOTSTRAP_SERVERS to the brokers "
            "(without Kafka agents write to the store themselves)"
        )
    from runwire_consumers.compose.object_worker import run_objects

    return lambda: run_objects(state_dir(arguments.dir), s3, settings, kafka=kafka)


def _with_port(settings: WorkerSettings, arguments: argparse.Namespace) -> WorkerSettings:
    port = arguments.metrics_port
    return settings if port is None else replace(settings, metrics_port=port)


if __name__ == "__main__":
    sys.exit(main())
