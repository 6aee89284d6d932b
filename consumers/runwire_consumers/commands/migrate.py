"""`runwire migrate`: tables of ClickHouse, topics and rights of Kafka, schemas, the bucket."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from runwire_schemas.connections.clickhouse import ClickHouseSettings
from runwire_schemas.connections.table import parse_value, rows_of
from runwire_schemas.errors import MISUSE, CommandError, RunwireError

SUMMARY = "create or update tables, views, topics, schemas and the bucket on your servers"
EXAMPLE = "runwire migrate --url http://admin:secret@clickhouse:8123/runwire --kafka kafka:9092"
ALL, SQL, KAFKA, S3 = "all", "sql", "kafka", "s3"

Step = Callable[[argparse.Namespace], dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `migrate`."""
    parser.add_argument(
        "--url",
        help="ClickHouse; default: $RUNWIRE_CLICKHOUSE_URL, else the embedded engine of --dir",
    )
    parser.add_argument("--cluster", help="make replicated tables ON CLUSTER of this name")
    parser.add_argument(
        "--kafka",
        metavar="HOST:PORT",
        help="brokers; default: $RUNWIRE_KAFKA_BOOTSTRAP_SERVERS (login from RUNWIRE_KAFKA_*)",
    )
    parser.add_argument(
        "--registry",
        metavar="URL",
        help="schema registry; default: $RUNWIRE_SCHEMA_REGISTRY_URL",
    )
    parser.add_argument(
        "--s3",
        metavar="URL",
        help="object store; default: $RUNWIRE_S3_ENDPOINT (bucket and login from RUNWIRE_S3_*)",
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="also set what differs from ours: column types, views, configurations of topics",
    )
    parser.add_argument(
        "--acls", action="store_true", help="also give the users below their rights in Kafka"
    )
    parser.add_argument("--agent-user", metavar="USER", help="user name of the agents")
    parser.add_argument("--worker-user", metavar="USER", help="user name of the workers")
    parser.add_argument("--objects-user", metavar="USER", help="user name of the object workers")
    parser.add_argument(
        "--print",
        nargs="?",
        const=ALL,
        choices=(ALL, SQL, KAFKA, S3),
        help="print SQL, commands for Kafka and for S3, or one of them, and change nothing",
    )
    parser.add_argument(
        "--brokers", type=int, default=3, help="size of the cluster that --print assumes"
    )
    parser.add_argument("--json", action="store_true", help="print the changes as JSON")


def run(args: argparse.Namespace) -> int:
    """Apply missing changes on every configured server; 1 when one of them failed."""
    if args.acls and not (args.agent_user or args.worker_user or args.objects_user):
        _note("runwire: --acls needs --agent-user, --worker-user or --objects-user")
        return MISUSE
    if args.print:
        _print(args)
        return 0
    steps = _configured_steps(args)
    done: dict[str, Any] = {}
    failed = False
    for step in steps:
        try:
            done |= step(args)
        except RunwireError as error:
            failed = True  # the other servers are migrated all the same
            _note(f"runwire: {error}")
    if args.json:
        print(json.dumps(done))
    return int(failed)


def _configured_steps(args: argparse.Namespace) -> list[Step]:
    """Return the steps of configured servers; note the others. Raises: CommandError without any."""
    from runwire_schemas.connections.kafka import KafkaSettings
    from runwire_schemas.connections.s3 import S3Settings

    has_s3 = bool(args.s3 or _setting(S3Settings, "endpoint"))
    has_kafka = bool(args.kafka or _setting(KafkaSettings, "bootstrap_servers"))
    has_registry = bool(_registry_url(args))
    has_clickhouse = bool(_clickhouse_url(args))
    if not (has_clickhouse or has_kafka or has_registry or has_s3):
        raise CommandError(
            "nothing to migrate: no ClickHouse, Kafka or object store is configured. Start the "
            "embedded engine with `runwire up`, or set RUNWIRE_CLICKHOUSE_URL=http://user:password@"
            "host:port/runwire, RUNWIRE_KAFKA_BOOTSTRAP_SERVERS=host:port, RUNWIRE_S3_ENDPOINT="
            "http://host:port, or several of them"
        )
    if args.acls and not has_kafka:
        raise CommandError("--acls is about Kafka: name its brokers with --kafka host:port")
    if not has_clickhouse:
        _note("ClickHouse is skipped: neither --url nor RUNWIRE_CLICKHOUSE_URL is set")
    if not has_kafka and (args.url or ClickHouseSettings.from_environment(os.environ).url):
        # A user of the embedded stack has no Kafka and needs no note about it.
        _note("Kafka is skipped: neither --kafka nor RUNWIRE_KAFKA_BOOTSTRAP_SERVERS is set")
    steps = (
        (has_clickhouse, _migrate_clickhouse),
        (has_kafka, _migrate_kafka),
        (has_registry, _migrate_registry),
        (has_s3, _migrate_s3),
    )
    return [step for is_configured, step in steps if is_configured]


def _clickhouse_url(args: argparse.Namespace) -> str:
    from runwire_consumers.stack.control import writer_url
    from runwire_consumers.stack.state import StackError
    from runwire_disk import paths

    if args.url:
        return str(args.url)
    try:
        return writer_url(paths.state_dir(args.dir))
    except StackError:
        return ""


def _migrate_clickhouse(args: argparse.Namespace) -> dict[str, Any]:
    from runwire_consumers.clickhouse import drift, migrate
    from runwire_consumers.clickhouse.client import MIGRATION_ANSWER_S, connect, shown

    url = _clickhouse_url(args)
    client = connect(url, create=True, answer_s=MIGRATION_ANSWER_S)
    try:
        applied = migrate.apply(client, cluster=args.cluster)
        found = drift.find_drift(client)
        mended = [one for one in found if one.is_missing or args.fix]
        repaired = drift.repair(client, mended, cluster=args.cluster)
    finally:
        client.close()
    left = [one.sentence for one in found if one not in mended]
    for sentence in left:
        _note(f"{sentence}: --fix sets it")
    lines = [f"applied {name}" for name in applied] + repaired
    if lines or not left:
        _report(args, lines, shown(url))
    return {"url": shown(url), "applied": applied, "repaired": repaired, "differing": left}


def _migrate_kafka(args: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from runwire_consumers.kafka import acls, topics
    from runwire_consumers.kafka.admin import KafkaAdmin

    settings = _kafka(args)
    cluster = KafkaAdmin(settings)
    outcome = topics.apply(cluster, prefix=settings.topic_prefix, fix=args.fix)
    lines = [f"created topic {name}" for name in outcome.created]
    lines += [f"topic {d.topic}: {d.found} to {d.wanted} {d.name}" for d in outcome.grown]
    lines += [f"topic {d.topic}: {d.name} set from {d.found} to {d.wanted}" for d in outcome.fixed]
    for left in outcome.differing:
        advice = "--fix sets it" if left.can_fix else "kafka-reassign-partitions.sh changes it"
        _note(f"topic {left.topic} has {left.name}={left.found}, ours is {left.wanted}: {advice}")
    given = acls.apply(cluster, _grants(args, settings.topic_prefix)) if args.acls else []
    lines += [f"allowed: {right}" for right in given]
    _report(args, lines, f"Kafka at {cluster.servers}")
    return {"kafka": {"servers": cluster.servers, **asdict(outcome), "allowed": given}}


def _migrate_registry(args: argparse.Namespace) -> dict[str, Any]:
    from runwire_schemas.errors import RegistryAway
    from runwire_schemas.events import EVENTS
    from runwire_schemas.registry import COMPATIBILITY, Registry

    registry = Registry(_registry_url(args), prefix=_prefix())
    try:
        subjects = [registry.register(kind, fix=args.fix) for kind in EVENTS]
    except RegistryAway as error:
        sentence = f"{error} Without it the pipeline runs with its bundled schema ids."
        raise CommandError(sentence) from error
    for subject in subjects:
        if subject.compatibility != COMPATIBILITY:
            _note(
                f"subject {subject.subject} is held to {subject.compatibility or 'the default'}, "
                f"ours is {COMPATIBILITY}: --fix sets it"
            )
    new = [f"registered {s.subject} as schema {s.schema_id}" for s in subjects if s.is_new]
    _report(args, new, registry.shown)
    return {"registry": {s.subject: s.schema_id for s in subjects}}


def _migrate_s3(args: argparse.Namespace) -> dict[str, Any]:
    from runwire_consumers.objects import bucket, policies

    settings = _s3(args)
    assert settings is not None  # `_configured_steps` has seen its address
    outcome = bucket.prepare(settings)
    made, reason = policies.apply(settings)
    notes = outcome.notes
    if reason:
        notes.append(f"no policies: {reason}; `runwire migrate --print s3` prints them")
    for note in notes:
        _note(note)
    done = outcome.done + made
    _report(args, done, f"bucket {settings.bucket} at {settings.url}")
    return {"s3": {"url": settings.url, "bucket": settings.bucket, "done": done, "notes": notes}}


def _print(args: argparse.Namespace) -> None:
    if args.print in (ALL, SQL):
        from runwire_consumers.clickhouse import migrate

        for migration in migrate.migrations():
            print(f"-- {migration.name}\n{migration.text.strip()}\n")
    if args.print in (ALL, KAFKA):
        from runwire_consumers.kafka import acls, topics
        from runwire_schemas.connections.kafka import KafkaSettings

        servers = args.kafka or _setting(KafkaSettings, "bootstrap_servers") or "localhost:9092"
        args.agent_user = args.agent_user or "runwire-agent"
        args.worker_user = args.worker_user or "runwire-worker"
        args.objects_user = args.objects_user or "runwire-objects"
        print("# With authentication, add --command-config FILE to every line.")
        print(f"# Topics, for a cluster of {args.brokers} brokers (--brokers):")
        print("\n".join(topics.commands(servers, prefix=_prefix(), brokers=args.brokers)))
        print(
            "# Rights, where the cluster checks them (--agent-user, --worker-user, --objects-user):"
        )
        print("\n".join(acls.commands(servers, _grants(args, _prefix()))))

    if args.print in (ALL, S3):
        from runwire_consumers.objects import bucket, policies
        from runwire_schemas.connections.s3 import S3Settings

        name = _setting(S3Settings, "bucket")
        print("# Object store; STORE is its alias: mc alias set STORE URL ACCESS_KEY SECRET_KEY")
        print("\n".join(bucket.commands("STORE", name)))
        print("# Rights; elsewhere than in MinIO attach the same policies with your own tool:")
        print("\n".join(policies.commands("STORE", name)))


def _grants(args: argparse.Namespace, prefix: str) -> list[Any]:
    from runwire_consumers.kafka import acls
    from runwire_consumers.settings import from_environment

    groups = from_environment().groups(prefix)
    return acls.grants(
        prefix=prefix,
        group=groups.clickhouse,
        objects_group=groups.objects,
        agent_user=args.agent_user or "",
        worker_user=args.worker_user or "",
        objects_user=args.objects_user or "",
    )


def _kafka(args: argparse.Namespace) -> Any:
    from runwire_schemas.connections import kafka as kafka_settings

    row = rows_of(kafka_settings.KafkaSettings)["bootstrap_servers"]
    named = {row.env: args.kafka} if args.kafka else {}
    settings = kafka_settings.from_environment({**os.environ, **named})
    assert settings is not None  # `_configured_steps` has seen the brokers
    return settings


def _s3(args: argparse.Namespace) -> Any:
    from runwire_schemas.connections import s3 as s3_settings

    named = {s3_settings.ENDPOINT_VARIABLE: args.s3} if args.s3 else {}
    return s3_settings.from_environment({**os.environ, **named})


def _prefix() -> str:
    from runwire_schemas.connections.kafka import KafkaSettings

    return _setting(KafkaSettings, "topic_prefix")


def _registry_url(args: argparse.Namespace) -> str:
    from runwire_schemas.connections.kafka import RegistrySettings

    return str(args.registry or _setting(RegistrySettings, "url"))


def _setting(table: type, name: str) -> str:
    """Return one setting of a table, its default when the environment does not name it.

    Raises: ConfigError.
    """
    row = rows_of(table)[name]
    text = os.environ.get(row.env, "").strip()
    return str(parse_value(row, text, f"environment variable {row.env}") if text else row.default)


def _report(args: argparse.Namespace, lines: list[str], where: str) -> None:
    if not lines:
        _note(f"{where} is up to date")
    elif not args.json:
        print("\n".join(lines))


def _note(sentence: str) -> None:
    print(sentence, file=sys.stderr)
