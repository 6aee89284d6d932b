"""The embedded engine as a process: its files, its refusals and their sentences."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

pytest.importorskip("chdb", reason="chdb-core is not installed")

from runwire_consumers.clickhouse import engine as engine_module
from runwire_consumers.clickhouse.client import connect
from runwire_consumers.clickhouse.engine import Engine, EngineError, read_connection
from runwire_consumers.clickhouse.engine_settings import MEMORY_BYTES_MIN
from runwire_query import connection as query_connection
from runwire_query.errors import QueryError

pytestmark = pytest.mark.engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path / "embedded", ports=(0, 0), die_with_parent=True)
    yield made
    made.stop()


def test_engine_keeps_data_passwords_and_ports_across_a_restart(engine: Engine) -> None:
    """After SIGTERM and a new start the same URL reads the same rows."""
    first = engine.start()
    engine.wait_ready()
    client = connect(first.url, create=True)
    client.command("CREATE TABLE t (x UInt8) ENGINE = MergeTree ORDER BY x")
    client.command("INSERT INTO t VALUES (7)")
    client.close()
    engine.stop()
    assert not engine.alive()

    assert engine.start() == first
    engine.wait_ready()
    client = connect(first.url)
    assert client.query("SELECT x FROM t").result_rows == [(7,)]
    client.close()


def test_connection_file_is_readable_by_its_owner_only(engine: Engine) -> None:
    """connection.json holds what the contract names, mode 0600; the log holds no password."""
    connection = engine.start()
    engine.wait_ready()
    path = engine.folder / "connection.json"
    assert path.stat().st_mode & 0o777 == 0o600
    fields = json.loads(path.read_text())
    assert set(fields) == {"url", "reader_url", "http_port", "tcp_port"}
    password = connection.url.split(":")[2].split("@")[0]
    assert password not in engine.log_path.read_text()
    assert password not in (engine.folder / "users.xml").read_text()


def test_second_engine_on_a_folder_is_refused(engine: Engine) -> None:
    """The sentence names the process that has the folder and what to do."""
    engine.start()
    engine.wait_ready()
    with pytest.raises(EngineError, match=rf"another engine \(pid {engine.pid}\).*runwire down"):
        Engine(engine.folder).start()
    assert engine.alive()


def test_engine_takes_another_port_when_its_port_is_taken(engine: Engine) -> None:
    """If another process listens on the last port, a free port is taken and written down."""
    first = engine.start()
    engine.wait_ready()
    engine.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first.http_port))
        taken.listen()
        second = engine.start()
        engine.wait_ready()
    assert second.http_port != first.http_port
    assert second.tcp_port == first.tcp_port
    assert read_connection(engine.folder) == second


def test_engine_keeps_within_its_share_of_the_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of the environment are those of the server; a query beyond them ends."""
    monkeypatch.setenv("RUNWIRE_ENGINE_MEMORY_RATIO", "0")
    connection = engine.start()
    engine.wait_ready()
    client = connect(connection.url, create=True)
    settings = dict(
        client.query(
            "SELECT name, toInt64(value) FROM system.server_settings WHERE name IN "
            "('max_server_memory_usage', 'mark_cache_size', 'os_threads_nice_value_merge_mutate')"
        ).result_rows
    )
    assert settings == {
        "max_server_memory_usage": MEMORY_BYTES_MIN,
        "mark_cache_size": MEMORY_BYTES_MIN // 8,
        "os_threads_nice_value_merge_mutate": 19,
    }
    with pytest.raises(DatabaseError, match="MEMORY_LIMIT_EXCEEDED"):
        client.query("SELECT count() FROM (SELECT groupArray(number) FROM numbers(300000000))")
    assert client.query("SELECT 1").result_rows == [(1,)]
    client.close()


# By variable: its value, the limit of ClickHouse, and a query of the reader that goes beyond.
BEYOND = {
    "RUNWIRE_ENGINE_QUERY_ROWS": (
        *("1000000", "max_rows_to_read"),
        "SELECT sum(number) FROM numbers(2000000)",
    ),
    "RUNWIRE_ENGINE_QUERY_S": (
        *("0.2", "max_execution_time"),
        "SELECT sum(sipHash64(number)) FROM numbers(10000000000)",
    ),
    "RUNWIRE_ENGINE_QUERY_BYTES": (
        *("100MiB", "max_memory_usage"),
        "SELECT length(groupArray(number)) FROM numbers(100000000)",
    ),
    "RUNWIRE_ENGINE_RESULT_BYTES": (
        *("1MiB", "max_result_bytes"),
        "SELECT number FROM numbers(1000000)",
    ),
}


def test_reader_beyond_a_limit_is_told_which_setting_raises_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each limit ends the query alone; a query may lift the others; the writer has none."""
    for variable, (value, _, _) in BEYOND.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("RUNWIRE_DIR", str(engine.folder.parent))
    connection = engine.start()
    engine.wait_ready()
    writer = connect(connection.url, create=True)
    reader = query_connection.connect(None)
    for variable, (_, limit, sql) in BEYOND.items():
        others = ", ".join(f"{name} = 0" for _, name, _ in BEYOND.values() if name != limit)
        with pytest.raises(QueryError, match=rf"SETTINGS {limit}=NUMBER; {variable}"):
            reader.rows(f"{sql} SETTINGS {others}")
    assert reader.rows("SELECT 1 AS one") == [{"one": 1}]
    assert writer.query(BEYOND["RUNWIRE_ENGINE_QUERY_ROWS"][2]).result_rows == [(1999999000000,)]
    reader.close()
    writer.close()


def test_failed_start_shows_the_end_of_the_log(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a failed start contains the last lines of the engine's log."""
    monkeypatch.setattr(engine_module, "write_config", lambda folder, *_: _broken(folder))
    engine.start()
    with pytest.raises(EngineError, match=r"(?s)ended.*engine\.log.*SAXParse"):
        engine.wait_ready()


def _broken(folder: Path) -> None:
    (folder / "config.xml").write_text("<clickhouse><oops></clickhouse>")


def test_missing_wheel_is_named_with_its_pip_command(tmp_path: Path) -> None:
    """Without chdb-core the error is the pip command."""
    hide = (
        "import sys; sys.modules['chdb'] = None\n"
        "from runwire_consumers.clickhouse import engine_process\n"
        f"sys.exit(engine_process.main([{str(tmp_path)!r}]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", hide], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 3
    assert "pip install 'runwire[embedded]'" in ended.stderr


def test_engine_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the process that started it with die_with_parent ends the engine too."""
    starter = (
        "from pathlib import Path; import sys, time\n"
        "from runwire_consumers.clickhouse.engine import Engine\n"
        f"e = Engine(Path({str(tmp_path)!r}), ports=(0, 0), die_with_parent=True)\n"
        "e.start(); e.wait_ready(); print(e.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        if not Engine(tmp_path).alive():
            break
        subprocess.run(["sleep", "0.05"], check=True)
    assert not Engine(tmp_path).alive(), f"engine {pid} outlived its parent"


def test_sigterm_from_any_process_stops_the_engine(engine: Engine) -> None:
    """SIGTERM from another process ends the engine; `wait_ready` then reports how it ended."""
    engine.start()
    engine.wait_ready()
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    engine.stop()
    assert not engine.alive()
