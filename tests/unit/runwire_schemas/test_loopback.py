"""HTTP to this machine goes past any proxy of the environment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from runwire_schemas.connections.loopback import is_loopback, open_here
from runwire_schemas.registry import Registry

NOBODY = "http://127.0.0.1:1"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"schema": "\\"long\\""}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """The port of an HTTP server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["http_proxy", "HTTP_PROXY", "all_proxy"])
def _proxied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody serves, without any exception."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(request.param, NOBODY)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "kafka.localhost", "127.0.0.1", "127.8.7.6", "::1", "[::1]"],
)
def test_name_or_address_of_this_machine_is_loopback(host: str) -> None:
    """Every address of 127.0.0.0/8 counts, and every name below localhost."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "localhost.example.org", "::2", "registry", ""])
def test_other_host_is_never_taken_for_loopback(host: str) -> None:
    """A name that only resembles localhost goes through the proxy."""
    assert not is_loopback(host)


@pytest.mark.usefixtures("_proxied")
def test_server_on_this_machine_is_reached_past_a_proxy(port: int) -> None:
    """Health pages and the engine's own page."""
    assert open_here(f"http://127.0.0.1:{port}/", timeout_s=5.0).status == 200


@pytest.mark.usefixtures("_proxied")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_registry_on_this_machine_is_reached_past_a_proxy(port: int, host: str) -> None:
    """By address and by name."""
    assert Registry(f"http://{host}:{port}").schema_text(1) == '"long"'
