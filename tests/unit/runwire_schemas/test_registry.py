"""The registry client: what a registry that is away, locked, strange or lying makes of it.

A scripted HTTP server plays the registry here; tests/integration/kafka uses a real one.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from runwire_schemas import codec
from runwire_schemas.errors import RegistryAway, SchemaError
from runwire_schemas.events import EVENTS
from runwire_schemas.registry import (
    Registry,
    RegistryRefused,
    from_environment,
    with_id,
)

BUNDLED = {kind: codec.bundled_id(kind) for kind in EVENTS}
UNKNOWN_ID = (404, {"error_code": 40403, "message": "Schema not found"})
METRIC = (200, {"schema": codec.schema_json("metric")})


class Script:
    """Answers by path, and what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.default: tuple[int, Any] = UNKNOWN_ID
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.silence = threading.Event()  # set: answer at once
        self.silence.set()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.silence.wait(10)
        self.asked.append((handler.path, dict(handler.headers)))
        status, body = self.answers.get(handler.path, self.default)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.send_header("Location", "/schemas/ids/1")
        handler.end_headers()
        handler.wfile.write(data)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def address(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.answer(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            script.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    script.silence.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def registry(address: str, now: list[float], reports: list[str]) -> Registry:
    url = f"http://user:p%40ss@{address}/sub/"
    return Registry(url, clock=lambda: now[0], say=reports.append, timeout_s=5)


def test_schema_is_requested_once_and_then_remembered(registry: Registry, script: Script) -> None:
    """One request, with the login of the URL and below its path; then the answer is from memory."""
    script.answers["/sub/schemas/ids/7"] = METRIC
    assert registry.schema_text(7) == registry.schema_text(7) == codec.schema_json("metric")
    ((path, headers),) = script.asked
    assert path == "/sub/schemas/ids/7"
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert "p%40ss" not in registry.shown
    assert "p@ss" not in registry.shown


def test_unknown_id_is_not_requested_again_for_10_s(
    registry: Registry, script: Script, now: list[float]
) -> None:
    """A stream of such messages costs one request, and a schema registered later is found."""
    assert [registry.schema_text(7) for _ in range(3)] == [None] * 3
    assert len(script.asked) == 1
    script.answers["/sub/schemas/ids/7"] = METRIC
    now[0] += 11
    assert registry.schema_text(7) == codec.schema_json("metric")


def test_schema_of_another_language_counts_as_unknown(registry: Registry, script: Script) -> None:
    """A JSON schema under the id is no Avro schema."""
    script.answers["/sub/schemas/ids/7"] = (200, {"schema": "{}", "schemaType": "JSON"})
    assert registry.schema_text(7) is None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, b"<html>login</html>"), "refuses the user or password"),
        ((403, {}), "refuses the user or password"),
        ((404, {"error_code": 404, "message": "HTTP 404 Not Found"}), "answers 404"),
        ((404, b"<html>nginx</html>"), "language of schema registries"),
        ((200, b"<html>hello</html>"), "language of schema registries"),
        ((200, b"[" * 100_000), "language of schema registries"),
        ((200, b" " * (5 << 20)), "language of schema registries"),
        ((302, {}), "answers 302"),
        ((500, {}), "answers 500"),
        ((503, b"busy"), "answers 503"),
    ],
)
def test_registry_without_usable_answer_raises_away(
    registry: Registry, script: Script, now: list[float], *, answer: tuple[int, Any], says: str
) -> None:
    """An unreachable, locked or misplaced registry never means "no such schema"."""
    script.default = answer
    for _ in range(3):
        with pytest.raises(RegistryAway, match=says) as caught:
            registry.schema_text(7)
        assert "p@ss" not in str(caught.value)
    assert len(script.asked) == 1, "it is left alone for a while"
    script.default = METRIC
    now[0] += 6
    assert registry.schema_text(7) == codec.schema_json("metric")


def test_registry_that_does_not_answer_in_time_is_away(address: str, script: Script) -> None:
    """A registry that accepts the connection and stays silent ends in RegistryAway."""
    script.silence.clear()
    with pytest.raises(RegistryAway, match=r"does not answer \(timed out\)"):
        Registry(f"http://{address}", timeout_s=0.1).schema_text(7)


def test_producers_use_bundled_ids_until_schemas_are_registered(
    registry: Registry, script: Script, reports: list[str], now: list[float]
) -> None:
    """Also while the registry is unreachable; each reason is logged once."""
    script.default = (503, b"")
    for _ in range(3):
        assert registry.ids() == BUNDLED
        now[0] += 61
    script.default = UNKNOWN_ID
    for _ in range(3):
        assert registry.ids() == BUNDLED
        now[0] += 61
    script.answers["/sub/subjects/runwire.metric.v1-value"] = (200, {"id": 12})
    assert registry.ids() == {**BUNDLED, "metric": 12}
    asked = len(script.asked)
    assert registry.ids() == {**BUNDLED, "metric": 12}
    assert len(script.asked) == asked, "what was not found is not asked for at each batch"
    away, lacking, fewer = reports
    assert "answers 503" in away
    assert "lacks the schemas of runwire.run.v1-value, " in lacking
    assert "`runwire migrate`" in lacking
    assert "runwire.metric.v1-value" not in fewer


@pytest.mark.parametrize("schema_id", [0, -1, codec.BUNDLED_ID_BASE, "7", None, True and 2**40])
def test_id_outside_the_usable_range_is_not_used(
    registry: Registry, script: Script, reports: list[str], schema_id: object
) -> None:
    """The bundled ids are used instead, and the reason names the range."""
    script.default = (200, {"id": schema_id})
    assert registry.ids() == BUNDLED
    assert "ids from 1 to 2130706431 can be used" in reports[0]


def test_register_names_the_reason_of_a_refusal(registry: Registry, script: Script) -> None:
    """A refusal or a wrong login is an error that names its cause."""
    subject = "/sub/subjects/runwire.metric.v1-value"
    script.answers[f"{subject}/versions"] = (409, {"error_code": 409, "message": "field gone"})
    with pytest.raises(RegistryRefused, match="answers 409"):
        registry.register("metric")
    script.default = (401, b"")
    with pytest.raises(RegistryRefused, match="RUNWIRE_SCHEMA_REGISTRY_URL"):
        registry.register("run")


@pytest.mark.parametrize(
    "url", ["ftp://host", "host:8081", "http://", "http://h:99999", "http://h:x"]
)
def test_malformed_registry_url_is_refused_with_the_variable(url: str) -> None:
    """Other schemes, missing hosts and impossible ports are refused at once."""
    with pytest.raises(SchemaError, match="RUNWIRE_SCHEMA_REGISTRY_URL is no address"):
        Registry(url)


def test_registry_is_none_unless_its_variable_is_set() -> None:
    """A registry is optional; with a URL its subjects follow the topic prefix."""
    assert from_environment({}) is None
    found = from_environment({"RUNWIRE_SCHEMA_REGISTRY_URL": "http://[::1]:8081"}, prefix="p")
    assert found is not None
    assert found.subject("run") == "p.run.v1-value"
    assert found.shown.endswith("http://[::1]:8081")


def test_message_keeps_its_body_under_another_id() -> None:
    """Only the id changes; a message without the header is refused."""
    assert with_id(b"\x00\x7f\x00\x00\x03body", 258) == b"\x00\x00\x00\x01\x02body"
    for none in (b"", b"\x00\x01", b"\x01\x00\x00\x00\x01body"):
        with pytest.raises(SchemaError, match="without the Avro header"):
            with_id(none, 1)
