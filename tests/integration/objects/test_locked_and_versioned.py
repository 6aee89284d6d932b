"""Buckets with object lock or versions: parts carry the MD5 that Amazon wants, sweeps free less."""

from __future__ import annotations

import base64
import hashlib
import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.layout import blob_key
from runwire_store.s3.store import S3Store
from runwire_store.sweep import sweep
from support.servers import ObjectStore

pytestmark = pytest.mark.fault

MIB = 1024 * 1024
DAY_NS = 86_400 * 10**9
# Amazon's answer to a part without the header in a bucket with a default retention.
REFUSED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InvalidRequest</Code><Message>'
    b"Content-MD5 OR x-amz-checksum- HTTP header is required for Put Part requests "
    b"with Object Lock parameters"
    b"</Message></Error>"
)


class _LockedBucket(BaseHTTPRequestHandler):
    """Forwards to a server, except for PUT requests without the MD5 of their body."""

    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        digest = base64.b64encode(hashlib.md5(body).digest()).decode()
        if self.command == "PUT" and self.headers.get("Content-MD5") != digest:
            self.server.refused += 1  # type: ignore[attr-defined]
            self._answer(400, {"Content-Type": "application/xml"}, REFUSED)
            return
        upstream = http.client.HTTPConnection(self.server.target)  # type: ignore[attr-defined]
        upstream.request(self.command, self.path, body or None, dict(self.headers.items()))
        answer = upstream.getresponse()
        kept = {n: v for n, v in answer.getheaders() if n.lower() != "transfer-encoding"}
        self._answer(answer.status, kept, answer.read())
        upstream.close()

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        if self.command != "HEAD":
            headers = {**headers, "Content-Length": str(len(data))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 - names of the protocol

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def locked(minio_bucket: S3Settings) -> Iterator[tuple[S3Settings, ThreadingHTTPServer]]:
    """A bucket whose server wants the MD5 of every PUT, and that server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _LockedBucket) as server:
        server.target, server.refused = minio_bucket.address, 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield replace(minio_bucket, endpoint=endpoint), server
        server.shutdown()
        thread.join()


def test_parts_carry_an_md5_once_a_bucket_asks_for_it(
    locked: tuple[S3Settings, ThreadingHTTPServer], tmp_path: Path, seed: int
) -> None:
    """The refused part is sent again with its MD5, and the whole file arrives unchanged."""
    settings, server = locked
    data = hashlib.shake_256(str(seed).encode()).digest(MIB) * 40
    source = tmp_path / "source"
    source.write_bytes(data)
    store = S3Store(settings)
    store.put_file("blobs/aa/large", source)
    refused_parts = server.refused  # type: ignore[attr-defined]
    assert 0 < refused_parts <= 3  # the parts on their way when the first was refused
    uploads = store.part_uploads
    upload = uploads.begin("blobs/aa/joined")
    etag = uploads.put_part("blobs/aa/joined", upload, 1, blocks=[data[:MIB], data[MIB : 6 * MIB]])
    uploads.complete("blobs/aa/joined", upload, {1: etag})
    assert server.refused == refused_parts  # type: ignore[attr-defined]
    store.get_file("blobs/aa/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert store.get("blobs/aa/joined") == data[: 6 * MIB]
    store.close()


@pytest.mark.parametrize("is_versioned", [True, False])
def test_sweep_says_when_a_bucket_keeps_what_it_deleted(
    minio: ObjectStore, minio_bucket: S3Settings, is_versioned: bool
) -> None:
    """The report of a versioned bucket does not claim space that is not free."""
    if is_versioned:
        minio.client().set_bucket_versioning(minio_bucket.bucket, VersioningConfig(ENABLED))
    store = S3Store(minio_bucket)
    store.put(blob_key("ab" * 32), b"unused")
    report = sweep(store, now_ns=time.time_ns() + 2 * DAY_NS)
    assert (len(report.blobs), report.keeps_versions) == (1, is_versioned)
    assert ("noncurrent versions below blobs/ and staging/" in report.space_note) == is_versioned
    versions = list(
        minio.client().list_objects(minio_bucket.bucket, include_version=True, recursive=True)
    )
    assert any(one.size == len(b"unused") for one in versions) == is_versioned
    for one in versions:
        minio.client().remove_object(minio_bucket.bucket, one.object_name or "", one.version_id)
    store.close()
