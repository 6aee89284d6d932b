"""Connection to ClickHouse for workers and migrations, with its failures as worker errors."""

from __future__ import annotations

import clickhouse_connect
import lz4.frame
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httputil import default_pool_manager
from urllib3.exceptions import HTTPError

from runwire_consumers.clickhouse import native
from runwire_consumers.clickhouse.native import Block
from runwire_consumers.core.errors import Fatal, LoginRefused, Retryable, WorkerError
from runwire_schemas.connections.clickhouse import (
    ClickHouseAddress,
    ClickHouseSettingsError,
    explain_error,
    sentence_of,
    trouble_of,
)
from runwire_schemas.connections.clickhouse_troubles import ClickHouseTrouble

# What any client call can raise; requests outside of urllib3 do not exist.
CALL_ERRORS = (ClickHouseError, HTTPError, OSError)

# Longest wait for an answer: a hung insert must end before a Kafka group evicts the worker
# (max.poll.interval.ms 300 s).
_ANSWER_S = 120
# A migration may copy a table of any size; who waits for it can interrupt it.
MIGRATION_ANSWER_S = 7 * 24 * 3600
_CONNECT_S = 10
# Replicas have less time than the client, which then hears that they did not answer.
_QUORUM_MS = 60_000
# A query may name every run of a round, or of a purge; the server's default is 256 KiB.
_QUERY_BYTES_MAX = 256 * 1024 * 1024
# Seconds until the next try, of troubles that can end without a person; all others are fatal.
_RETRY_AFTER_S = {
    ClickHouseTrouble.UNREACHABLE: 1.0,
    ClickHouseTrouble.PASSING: 1.0,
    ClickHouseTrouble.TOO_LARGE: 1.0,
    ClickHouseTrouble.UNKNOWN: 5.0,
    ClickHouseTrouble.UNTRUSTED: 10.0,
    ClickHouseTrouble.DISK_FULL: 10.0,
}


def connect(url: str, *, create: bool = False, answer_s: int = _ANSWER_S) -> Client:
    """Return a client whose database is the one of the URL; `create` makes the database first.

    `answer_s` bounds the wait for each answer.

    Raises: Fatal (wrong password, no such database), Retryable (the server does not answer).
    Threads: one thread at a time per client.
    """
    address = _parse(url)
    try:
        client = clickhouse_connect.get_client(
            **address.client_arguments(),
            # The URL's database may not exist yet and a client insists on it; `system` always does.
            database="system",
            connect_timeout=_CONNECT_S,
            send_receive_timeout=answer_s,
            autogenerate_session_id=False,
            compress=not address.is_local,
            pool_mgr=default_pool_manager() if address.is_direct else None,
            settings={"async_insert": 0, "max_query_size": _QUERY_BYTES_MAX},
        )
        if create:
            client.command(f"CREATE DATABASE IF NOT EXISTS `{address.database}`")
        exists = client.command(f"EXISTS DATABASE `{address.database}`")
    except CALL_ERRORS as error:
        raise explain(error, url) from error
    except TypeError as error:  # the driver's own words for an argument that it does not have
        raise Fatal(f"{address.source} has an option that cannot be used: {error}") from error
    if not exists:
        raise Fatal(sentence_of(ClickHouseTrouble.DATABASE, address))
    client.database = address.database
    return client


def insert_block(
    client: Client, table: str, block: bytes | Block, *, token: str, is_compressed: bool
) -> None:
    """Insert one Native block, under a token that makes its repetition harmless.

    `is_compressed` sends it through LZ4: a ninth of the bytes for a fifth of the client's time.
    Blocks: until ClickHouse answers, at most for the answer limit.
    Raises: CALL_ERRORS.
    """
    body, headers = (_compressed(block), {}) if is_compressed else native.to_send(block)
    client.raw_insert(
        table,
        insert_block=body,
        fmt="Native",
        compression="lz4" if is_compressed else None,
        transport_settings=headers,
        settings={
            # Columns of few distinct numbers come as dictionaries.
            "allow_suspicious_low_cardinality_types": 1,
            "async_insert": 0,
            # Reads use FINAL anyway; collapsing at insert too would cost a third of it.
            "optimize_on_insert": 0,
            # On most replicas, because the spool then deletes its copy; other tables ignore it.
            "insert_quorum": "auto",
            "insert_quorum_timeout": _QUORUM_MS,
            "insert_deduplicate": 1,
            "insert_deduplication_token": token,
            "deduplicate_blocks_in_dependent_materialized_views": 1,
        },
    )


def _compressed(block: bytes | Block) -> bytes:
    compressor = lz4.frame.LZ4FrameCompressor()
    pieces = [block] if isinstance(block, bytes) else block
    parts = [compressor.begin(), *map(compressor.compress, pieces), compressor.flush()]
    return b"".join(parts)


def is_elsewhere(url: str) -> bool:
    """Return whether the server is on another machine, so that bytes on the way cost time."""
    return not _parse(url).is_local


def shown(url: str) -> str:
    """Return the URL without its password. Raises: Fatal when it is malformed."""
    return _parse(url).shown


def explain(error: Exception, url: str) -> WorkerError:
    """Return a failed call as a worker error with a sentence for people.

    Retryable when time may cure it, Fatal when only a person can.
    """
    sentence = explain_error(error, _parse(url))
    trouble = trouble_of(error)
    if trouble is ClickHouseTrouble.PASSWORD:
        return LoginRefused(sentence)
    retry_after_s = _RETRY_AFTER_S.get(trouble)
    return Fatal(sentence) if retry_after_s is None else Retryable(retry_after_s, sentence)


def _parse(url: str) -> ClickHouseAddress:
    try:
        return ClickHouseAddress.parse(url)
    except ClickHouseSettingsError as error:
        raise Fatal(str(error)) from error
