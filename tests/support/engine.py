"""A real ClickHouse for tests: from the environment, a container, or the embedded engine.

Use in a conftest: `from support.engine import clickhouse_server, clickhouse_url  # noqa: F401`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.session_end import at_session_end

IMAGE = "clickhouse/clickhouse-server:26.8"


@dataclass(frozen=True)
class Server:
    """A running ClickHouse; `reader_url` and `folder` only where we started it ourselves."""

    url: str
    kind: str
    reader_url: str | None = None
    folder: Path | None = None


@pytest.fixture(scope="session")
def clickhouse_server() -> Server:
    """The one server of this test session."""
    server = _server()
    if isinstance(server, Server):
        return server
    if os.environ.get("RUNWIRE_TEST_REQUIRE_SERVERS") == "1":
        pytest.fail(f"RUNWIRE_TEST_REQUIRE_SERVERS=1 and {server}")
    pytest.skip(server)


@pytest.fixture
def clickhouse_url(clickhouse_server: Server) -> Iterator[str]:
    """The url of an empty database with all migrations, dropped after the test."""
    url = fresh_database(clickhouse_server)
    yield url
    drop_database(clickhouse_server, url)


def fresh_database(server: Server) -> str:
    """Make an empty migrated database; its url."""
    from runwire_consumers.clickhouse.client import connect
    from runwire_consumers.clickhouse.migrate import apply

    url = f"{server.url.rsplit('/', 1)[0]}/rw_test_{uuid.uuid4().hex[:12]}"
    client = connect(url, create=True)
    apply(client)
    client.close()
    return url


def drop_database(server: Server, url: str) -> None:
    """Drop a database of fresh_database."""
    from runwire_consumers.clickhouse.client import connect

    client = connect(server.url, create=True)
    client.command(f"DROP DATABASE `{url.rsplit('/', 1)[1]}` SYNC")
    client.close()


@functools.cache
def _server() -> Server | str:
    """The first server that is available, or the sentence why there is none."""
    url = os.environ.get("RUNWIRE_TEST_CLICKHOUSE_URL")
    if url:
        return Server(url, "environment")
    if docker_answers():
        return _container()
    if importlib.util.find_spec("chdb") is None:
        return (
            "no ClickHouse: RUNWIRE_TEST_CLICKHOUSE_URL is unset, no Docker answers and chdb-core "
            "is not installed (pip install 'runwire[embedded]')"
        )
    return _embedded()


def docker_answers() -> bool:
    with warnings.catch_warnings():
        # docker leaves its socket open without an answer; collect it here, not in some test.
        warnings.simplefilter("ignore", ResourceWarning)
        answers = _ping_docker()
        gc.collect()
    return answers


def _ping_docker() -> bool:
    try:
        import docker  # type: ignore[import-untyped]

        with contextlib.closing(docker.from_env(timeout=2)) as client:
            return bool(client.ping())
    except Exception:
        return False


def _container() -> Server:
    try:
        from testcontainers.community.clickhouse import ClickHouseContainer
    except ImportError:
        from testcontainers.clickhouse import ClickHouseContainer
    container = ClickHouseContainer(IMAGE, username="writer", password="test", dbname="runwire")
    container.start()
    at_session_end(container.stop)
    host, port = container.get_container_host_ip(), container.get_exposed_port(8123)
    return Server(f"http://writer:test@{host}:{port}/runwire", "container")


def _embedded() -> Server:
    from runwire_consumers.clickhouse.engine import Engine

    folder = Path(tempfile.mkdtemp(prefix="runwire-test-"))
    engine = Engine(folder, ports=(0, 0), die_with_parent=True)
    at_session_end(functools.partial(shutil.rmtree, folder, ignore_errors=True))
    at_session_end(engine.stop)
    engine.start()
    connection = engine.wait_ready()
    return Server(connection.url, "embedded", connection.reader_url, folder)
