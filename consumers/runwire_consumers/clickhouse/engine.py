"""The embedded ClickHouse of one folder: its start, its addresses, its end."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request

from runwire_consumers.clickhouse import engine_process
from runwire_consumers.clickhouse.engine_files import EngineAccess, write_config, write_private
from runwire_consumers.clickhouse.engine_settings import EngineSettings
from runwire_disk.files import try_lock
from runwire_schemas.connections.clickhouse import ClickHouseAddress
from runwire_schemas.connections.loopback import open_here
from runwire_schemas.errors import CommandError

DATABASE = "runwire"
REAP_S = 5.0
# Not 8123/9000: a developer's own server keeps its ports.
HTTP_PORT, TCP_PORT = 18123, 19000
_LOG_TAIL_LINES = 15


class EngineError(CommandError):
    """The embedded engine did not start, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Contents of connection.json: the addresses of the engine of this folder."""

    url: str
    reader_url: str
    http_port: int
    tcp_port: int


def read_connection(folder: Path) -> Connection | None:
    """Return the addresses last written for this folder; None when it never had an engine."""
    try:
        fields = json.loads((folder / "connection.json").read_text())
        return Connection(**fields)
    except (OSError, ValueError, TypeError):
        return None


class Engine:
    """One embedded ClickHouse: a child process that serves HTTP and native TCP on loopback.

    Threads: with die_with_parent the engine dies with the *thread* that called start().
    """

    def __init__(
        self,
        folder: Path,
        *,
        ports: tuple[int, int] = (HTTP_PORT, TCP_PORT),
        die_with_parent: bool = False,
    ) -> None:
        self.folder = folder.absolute()
        self._ports = ports  # for the first start; 0 takes any
        self._die_with_parent = die_with_parent
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """Path of the engine's log, which every start begins anew."""
        return self.folder / "engine.log"

    @property
    def pid(self) -> int | None:
        """Process id of the engine that serves the folder, started here or elsewhere."""
        return _lock_holder(self.folder)

    def start(self) -> Connection:
        """Write the configuration and start the process; return before it answers.

        Raises: EngineError when the engine is not installed or the folder is already served.
        """
        if importlib.util.find_spec("chdb") is None:
            raise EngineError(engine_process.MISSING_ENGINE)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        holder = _lock_holder(self.folder)
        if holder is not None:
            raise EngineError(self._busy(holder))
        if self._process is not None:
            # Its lock is free, so it has ended, perhaps just now: reap it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(REAP_S)
        connection = self._configure()
        command = [sys.executable, "-m", engine_process.__name__, str(self.folder)]
        if self._die_with_parent:
            command += ["--parent", str(os.getpid())]
        self.log_path.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:  # appends, so that `cap_log` may empty it
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return connection

    def wait_ready(self, timeout_s: float = 60.0) -> Connection:
        """Return once the engine answers a query with the writer's password.

        Raises: EngineError with the tail of the engine's log.
        Blocks: up to timeout_s (a first start takes about 4 s).
        """
        deadline = time.monotonic() + timeout_s
        while True:
            connection = read_connection(self.folder)
            if connection is not None and _answers(connection.url):
                return connection
            code = None if self._process is None else self._process.poll()
            if code is not None:
                raise EngineError(self._ended(code))
            if time.monotonic() > deadline:
                raise EngineError(
                    f"the embedded engine did not answer in {timeout_s:g} s{self._tail()}"
                )
            time.sleep(0.05)

    def alive(self) -> bool:
        """Return whether a process serves the folder, started here or elsewhere."""
        if self._process is not None:
            self._process.poll()  # reap, so that an ended child does not linger
        return _lock_holder(self.folder) is not None

    def stop(self, timeout_s: float = 10.0) -> None:
        """Send SIGTERM, then SIGKILL after timeout_s; no effect when nothing was started here.

        Blocks: up to timeout_s.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _configure(self) -> Connection:
        earlier = read_connection(self.folder)
        http_port, tcp_port = _free_ports(
            *(self._ports if earlier is None else (earlier.http_port, earlier.tcp_port))
        )
        access = EngineAccess(
            http_port=http_port,
            tcp_port=tcp_port,
            writer_password=_password(earlier.url) if earlier else secrets.token_hex(16),
            reader_password=_password(earlier.reader_url) if earlier else secrets.token_hex(16),
        )
        host = f"127.0.0.1:{http_port}/{DATABASE}"
        connection = Connection(
            url=f"http://writer:{access.writer_password}@{host}",
            reader_url=f"http://reader:{access.reader_password}@{host}",
            http_port=http_port,
            tcp_port=tcp_port,
        )
        write_config(self.folder, access, EngineSettings.from_environment(os.environ))
        fields = {name: getattr(connection, name) for name in Connection.__slots__}
        write_private(self.folder / "connection.json", json.dumps(fields, indent=1))
        return connection

    def _busy(self, holder: int) -> str:
        return (
            f"another engine (pid {holder}) already serves {self.folder}: use it, stop it with "
            f"`runwire down`, or choose another folder with RUNWIRE_DIR"
        )

    def _ended(self, code: int) -> str:
        if code == engine_process.EXIT_MISSING:
            return engine_process.MISSING_ENGINE
        if code == engine_process.EXIT_BUSY:
            return self._busy(_lock_holder(self.folder) or 0)
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        if -code == signal.SIGILL:
            how += " (illegal instruction: the wheel needs a CPU with AVX2)"
        return f"the embedded engine {how}{self._tail()}"

    def _tail(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        except OSError:
            lines = []
        shown = "\n  ".join(lines) or "(empty)"
        return f"; the end of {self.log_path}:\n  {shown}"


def _lock_holder(folder: Path) -> int | None:
    try:
        with (folder / "engine.lock").open("r") as lock:
            if not try_lock(lock.fileno()):
                return int(lock.read() or 0)
    except OSError:
        pass
    return None


def _password(url: str) -> str:
    return ClickHouseAddress.parse(url).password


def _free_ports(http_port: int, tcp_port: int) -> tuple[int, int]:
    """Return these ports, each replaced by a free one when it is taken."""
    with socket.socket() as http, socket.socket() as tcp:
        for listener, port in zip((http, tcp), (http_port, tcp_port), strict=True):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                listener.bind(("127.0.0.1", 0))
        return http.getsockname()[1], tcp.getsockname()[1]


def _answers(url: str) -> bool:
    """Return whether our own engine answers: another one would refuse the password."""
    address = ClickHouseAddress.parse(url)
    request = Request(f"http://{address.host}:{address.port}/?query=SELECT+1")
    request.add_header("X-ClickHouse-User", address.username)
    request.add_header("X-ClickHouse-Key", address.password)
    try:
        with open_here(request, timeout_s=5.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
