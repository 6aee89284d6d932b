"""Refusals of real S3 servers as sentences that say what to do."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from minio.time import utcnow

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.s3.store import S3Store
from runwire_store.store import StoreAway, StoreRefused
from support.native import NativeServer
from support.servers import ObjectStore
from support.small_disk import grow, small_disk

MIB = 1024 * 1024
LARGE = 40 * MIB
PATIENCE_S = 30.0


@pytest.fixture(params=["versitygw", "minio"])
def server(request: pytest.FixtureRequest) -> ObjectStore:
    name = {"versitygw": "s3", "minio": "minio"}[request.param]
    found: ObjectStore = request.getfixturevalue(name)
    return found


@pytest.fixture
def settings(server: ObjectStore) -> Iterator[S3Settings]:
    yield from server.new_bucket()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LARGE)
    return path


def calls(store: S3Store, folder: Path) -> dict[str, Callable[[], object]]:
    """Every verb, the small and the large way."""
    small = folder / "small"
    small.write_bytes(b"small")
    return {
        "check": store.check,
        "put": lambda: store.put("a", b"data"),
        "put_file": lambda: store.put_file("a", small),
        "put_file in parts": lambda: store.put_file("a", folder / "large"),
        "get": lambda: store.get("a"),
        "get_file": lambda: store.get_file("a", folder / "back"),
        "stat": lambda: store.stat("a"),
        "list": lambda: list(store.list("")),
        "compose": lambda: store.compose("a", ["b"]),
        "delete": lambda: store.delete(["a"]),
        "expire_uploads": lambda: store.expire_uploads(1.0),
    }


def assert_refused(settings: S3Settings, folder: Path, words: str) -> None:
    """Each verb of a new store says the words; no secret, no new file."""
    store = S3Store(settings)
    for verb, call in calls(store, folder).items():
        with pytest.raises(StoreRefused, match=words) as refused:
            call()
        assert settings.bucket in str(refused.value), verb
        assert settings.secret_key not in str(refused.value), verb
    assert not (folder / "back").exists()
    store.close()


@pytest.mark.parametrize("region", ["", "us-east-1"])
def test_wrong_credentials_name_the_variable_to_check(
    settings: S3Settings, large: Path, tmp_path: Path, region: str
) -> None:
    """The right variable is named, whether the region is set or asked for."""
    known = replace(settings, region=region)
    if not region:
        assert_refused(replace(known, secret_key="g" * 32), tmp_path, "RUNWIRE_S3_SECRET_KEY_FILE")
    assert_refused(replace(known, access_key="nobody"), tmp_path, "RUNWIRE_S3_ACCESS_KEY_FILE")


@pytest.mark.parametrize("region", ["", "us-east-1"])
def test_missing_bucket_is_refused_by_every_operation(
    settings: S3Settings, large: Path, tmp_path: Path, region: str
) -> None:
    """A missing bucket is not reported as a missing object, also for answers without a body."""
    missing = replace(settings, bucket="there-is-no-such", region=region)
    assert_refused(missing, tmp_path, "`runwire migrate` makes it")


def test_clock_difference_of_a_day_is_named(
    settings: S3Settings, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the clocks, since a day is more than any server accepts."""
    monkeypatch.setattr("runwire_store.s3.requests.utcnow", lambda: utcnow() - timedelta(days=1))
    store = S3Store(settings)
    with pytest.raises(StoreRefused, match="NTP"):
        store.put_file("a", large)
    store.close()


def test_unreachable_server_raises_store_away(tmp_path: Path, large: Path) -> None:
    """StoreAway, not StoreRefused: the same call may succeed once the server runs."""
    settings = S3Settings(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b")
    store = S3Store(settings)
    for verb in ("check", "put_file in parts", "list"):
        with pytest.raises(StoreAway, match=r"127\.0\.0\.1:9 does not answer"):
            calls(store, tmp_path)[verb]()
    store.close()


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.server.status))  # type: ignore[attr-defined]
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>some page</html>")

    do_PUT = do_GET  # noqa: N815 - the name of the protocol

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web_page() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_foreign_server_is_refused_and_its_502_is_store_away(web_page: ThreadingHTTPServer) -> None:
    """A wrong port or a proxy is refused with the setting's name; its 502 is temporary."""
    settings = S3Settings(
        endpoint=f"http://127.0.0.1:{web_page.server_port}", access_key="a", secret_key="b"
    )
    web_page.status = 403  # type: ignore[attr-defined]
    with pytest.raises(StoreRefused, match="RUNWIRE_S3_ENDPOINT"):
        S3Store(settings).check()
    web_page.status = 502  # type: ignore[attr-defined]
    with pytest.raises(StoreAway, match="502"):
        S3Store(settings).check()


def test_https_towards_a_plain_server_is_named(server: ObjectStore) -> None:
    """The default is https; the sentence says how to choose http."""
    settings = replace(server.settings("runwire"), endpoint=server.address)
    with pytest.raises(StoreRefused, match="http://"):
        S3Store(settings).check()


def test_missing_key_file_is_refused_with_its_variable(tmp_path: Path) -> None:
    """A key file that cannot be read is named together with its variable."""
    settings = S3Settings(
        endpoint="http://store", access_key="a", secret_key_file=str(tmp_path / "none")
    )
    with pytest.raises(StoreRefused, match="RUNWIRE_S3_SECRET_KEY_FILE"):
        S3Store(settings)


@pytest.fixture
def full(server: ObjectStore, tmp_path: Path) -> Iterator[S3Settings]:
    """The same program on a small disk of its own."""
    native = server.server
    if not isinstance(native, NativeServer):
        pytest.skip("only a server of this machine can be started on a small disk")
    program = psutil.Process(native.pid()).exe()
    with small_disk(tmp_path / "disk", "48m") as disk:
        settings = replace(server.settings("small"), endpoint=f"http://127.0.0.1:{_free_port()}")
        process = subprocess.Popen(
            _command(native.name, program, settings, disk),
            env=os.environ
            | {
                "ROOT_ACCESS_KEY": settings.access_key,
                "ROOT_SECRET_KEY": settings.secret_key,
                "MINIO_ROOT_USER": settings.access_key,
                "MINIO_ROOT_PASSWORD": settings.secret_key,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _make_bucket(settings)
            yield settings
        finally:
            process.terminate()
            process.wait()


def test_full_store_refuses_and_accepts_once_there_is_room(
    full: S3Settings, tmp_path: Path
) -> None:
    """The refusal says what to do, nothing half is visible, and once there is room it works."""
    store, path, journal = S3Store(full), tmp_path / "file", tmp_path / "journal"
    path.write_bytes(bytes(12 * MIB))
    stored = 0
    with pytest.raises(StoreRefused, match="free space there"):  # noqa: PT012 - until it is full
        while True:
            with suppress(StoreAway):  # MinIO that runs full in the middle says so the next time
                store.put_file(f"blobs/{stored}", path)
                stored += 1
    assert stored > 0
    sizes = [stat.size for stat in store.list("blobs/")]
    assert sizes == [12 * MIB] * stored
    path.write_bytes(bytes(20 * MIB))
    with pytest.raises(StoreRefused, match="free space there"):
        store.put_file("blobs/parts", path, journal=journal)
    assert store.stat("blobs/parts") is None
    grow(tmp_path / "disk", "256m")
    until = time.monotonic() + PATIENCE_S
    while store.stat("blobs/parts") is None:
        with suppress(StoreRefused):  # until the server looks for room again
            store.put_file("blobs/parts", path, journal=journal)
        assert time.monotonic() < until
    assert [s.size for s in store.list("blobs/")] == [*sizes, 20 * MIB]
    store.close()


def _command(name: str, program: str, settings: S3Settings, disk: Path) -> list[str]:
    if name == "minio":
        console = f"127.0.0.1:{_free_port()}"
        words = ["server", str(disk), "--quiet", "--console-address", console]
        return [program, *words, "--address", settings.address]
    return [program, "--port", settings.address, "posix", str(disk)]


def _make_bucket(settings: S3Settings) -> None:
    from minio import Minio
    from minio.error import MinioException
    from urllib3.exceptions import HTTPError

    client = Minio(settings.address, settings.access_key, settings.secret_key, secure=False)
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.make_bucket(settings.bucket)
        except (HTTPError, MinioException):
            assert time.monotonic() < until
            time.sleep(0.2)
        else:
            return


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
