"""Connect to ClickHouse, and say in a sentence why a call to it failed."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from runwire_consumers.core.errors import Fatal, Retryable, WorkerError

DATABASE = "runwire"
# What any client call can raise; requests outside of urllib3 do not exist.
CALL_ERRORS = (ClickHouseError, HTTPError, OSError)

# Longest answer we wait for: a hung insert must end before a Kafka group evicts the worker
# (max.poll.interval.ms 300 s).
_ANSWER_S = 120
_CONNECT_S = 10

# ClickHouse error codes (src/Common/ErrorCodes.cpp) by what a person can do about them.
_PASSWORD = {192, 193, 194, 516}
_RIGHTS = {164, 497}
_NO_DATABASE = {81}
_NO_TABLE = {16, 60, 47, 10}
_DISK_FULL = {243}
# TIMEOUT_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR,
# MEMORY_LIMIT_EXCEEDED, TABLE_IS_READ_ONLY, TOO_MANY_PARTS, ALL_CONNECTION_TRIES_FAILED,
# UNKNOWN_STATUS_OF_INSERT, QUERY_WAS_CANCELLED, S3_ERROR, KEEPER_EXCEPTION, quorum (285, 286).
_PASSES = {159, 202, 209, 210, 241, 242, 252, 279, 285, 286, 319, 394, 499, 999}


def connect(url: str, *, create: bool = False) -> Client:
    """A client whose database is the one of the url; `create` makes the database first.

    Raises: Fatal (wrong password, no such database), Retryable (nobody answers).
    Threads: one thread at a time per client.
    """
    parts = urlsplit(url)
    database = parts.path.strip("/") or DATABASE
    try:
        client = clickhouse_connect.get_client(
            **_address(parts),
            # The url's database may not exist yet and a client insists on it; `system` always does.
            database="system",
            connect_timeout=_CONNECT_S,
            send_receive_timeout=_ANSWER_S,
            autogenerate_session_id=False,
            compress=parts.hostname not in {"127.0.0.1", "localhost", "::1"},
            settings={"async_insert": 0},
        )
        if create:
            client.command(f"CREATE DATABASE IF NOT EXISTS `{database}`")
        exists = client.command(f"EXISTS DATABASE `{database}`")
    except CALL_ERRORS as error:
        raise explain(error, url) from error
    if not exists:
        raise Fatal(
            f"ClickHouse at {shown(url)} has no database `{database}` (or this user may not see "
            f"it): create it with `runwire migrate`, or correct RUNWIRE_CLICKHOUSE_URL"
        )
    client.database = database
    return client


def shown(url: str) -> str:
    """The url without its password."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def error_code(error: BaseException) -> int | None:
    """ClickHouse's numeric error code, where the error came from the server."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return code
    found = re.search(r"[Cc]ode:?\s*(\d+)", str(error))
    return int(found[1]) if found else None


def explain(error: Exception, url: str) -> WorkerError:
    """What the worker should do about the error, with a sentence for people.

    Retryable when time may cure it, Fatal when only a person can.
    """
    code, place = error_code(error), shown(url)
    user = urlsplit(url).username or "default"
    if code in _PASSWORD:
        return Fatal(
            f"ClickHouse at {place} refused the password of user `{user}`: correct "
            f"RUNWIRE_CLICKHOUSE_URL (http://user:password@host:port/database)"
        )
    if code in _RIGHTS:
        return Fatal(f"user `{user}` may not do this on {place}: {first_line(error)}")
    if code in _NO_DATABASE or code in _NO_TABLE:
        return Fatal(
            f"ClickHouse at {place} lacks a table or column this version needs: run "
            f"`runwire migrate` ({first_line(error)})"
        )
    if code in _DISK_FULL:
        return Retryable(10.0, f"the disk of ClickHouse at {place} is full: free space on it")
    if code is None:
        return Retryable(
            1.0, f"ClickHouse at {place} does not answer: is it running? ({_network(error)})"
        )
    if code in _PASSES:
        return Retryable(1.0, f"ClickHouse at {place} cannot do it now: {first_line(error)}")
    return Fatal(f"ClickHouse at {place} refused a request: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """The part of an error that fits a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _network(error: BaseException) -> str:
    """The operating system's words, out of the wrappings of two libraries."""
    found = re.search(r"\[Errno -?\d+\] [A-Za-z ]+|timed out|[Tt]imeout", str(error))
    return found[0] if found else first_line(error)


def _address(parts: SplitResult) -> dict[str, Any]:
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Fatal(
            "RUNWIRE_CLICKHOUSE_URL must look like http://user:password@host:8123/database, "
            f"not {parts.scheme or '(no scheme)'}://…"
        )
    return {
        "interface": parts.scheme,
        "host": parts.hostname,
        "port": parts.port or (8443 if parts.scheme == "https" else 8123),
        "username": unquote(parts.username or "default"),
        "password": unquote(parts.password or ""),
    }
