"""Stand-in for an object store on another machine: this machine only pays for sending.

It implements the part of S3 that runwire and the `minio` client use. The kernel discards large
bodies at the speed of a link; small objects are kept. It prints its port and ends when its stdin
is closed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

LINK_BYTES_PER_S = float(os.environ.get("RUNWIRE_BENCH_LINK", "125e6"))  # 1 Gbit/s
KEPT_BYTES = 1024 * 1024
CHUNK_BYTES = 256 * 1024
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class Link:
    """Limits all connections together to the speed of the link."""

    def __init__(self) -> None:
        self._lock, self._free_s = threading.Lock(), 0.0

    def passed(self, size: int) -> None:
        with self._lock:
            now_s = time.monotonic()
            self._free_s = max(now_s - 0.05, self._free_s) + size / LINK_BYTES_PER_S
            wait_s = self._free_s - now_s
        if wait_s > 0:
            time.sleep(wait_s)


class Objects:
    """Size of each key, content of small ones, and parts by upload and number."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[int, bytes]] = {}
        self.parts: dict[str, dict[int, int]] = {}
        self.ids = itertools.count(1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rbufsize = 0  # a body is read from the socket itself
    objects, link = Objects(), Link()

    def do_PUT(self) -> None:
        size, body = self._body()
        if "uploadId" in self._query:
            self.objects.parts[self._query["uploadId"]][int(self._query["partNumber"])] = size
        elif self._key:
            self.objects.kept[self._key] = size, body
        self._answer(200, etag=hashlib.md5(body, usedforsecurity=False).hexdigest())

    def do_POST(self) -> None:
        _, body = self._body()
        if "uploads" in self._query:
            upload = str(next(self.objects.ids))
            self.objects.parts[upload] = {}
            self._xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")
        elif "uploadId" in self._query:
            parts = self.objects.parts.pop(self._query["uploadId"])
            self.objects.kept[self._key] = sum(parts.values()), b""
            self._xml("CompleteMultipartUploadResult", "<ETag>x</ETag>")
        else:  # ?delete
            for name in ET.fromstring(body).iter(f"{{{NAMESPACE}}}Key"):
                self.objects.kept.pop(name.text or "", None)
            self._xml("DeleteResult", "")

    def do_GET(self) -> None:
        if "uploadId" in self._query:
            parts = self.objects.parts[self._query["uploadId"]].items()
            listed = (
                f"<Part><PartNumber>{number}</PartNumber><Size>{size}</Size><ETag>x</ETag></Part>"
                for number, size in sorted(parts)
            )
            self._xml("ListPartsResult", "".join(listed))
        elif self._key:
            self._object()
        elif "location" in self._query:
            self._xml("LocationConstraint", "")
        else:
            found = sorted(self.objects.kept.items())
            listed = (
                f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>x</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                for key, (size, _) in found
                if key.startswith(unquote(self._query.get("prefix", "")))
            )
            head = "<Name>distant</Name><IsTruncated>false</IsTruncated>"
            self._xml("ListBucketResult", head + "".join(listed))

    do_HEAD = do_GET  # noqa: N815 - the name that the base class calls

    def do_DELETE(self) -> None:
        self.objects.kept.pop(self._key, None)
        self._answer(204)

    def _object(self) -> None:
        if self._key not in self.objects.kept:
            self._xml("Error", "<Code>NoSuchKey</Code>", status=404)
            return
        size, content = self.objects.kept[self._key]
        self._answer(200, content, size=size)

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).strip("/").partition("/")[2]

    @property
    def _query(self) -> dict[str, str]:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in query.items()}

    def _body(self) -> tuple[int, bytes]:
        size = left = int(self.headers.get("Content-Length", 0))
        kept = bytearray()
        while left:
            if size <= KEPT_BYTES:
                data = self.connection.recv(left)
                kept += data
                count = len(data)
            else:  # the kernel drops them without copying
                count = len(self.connection.recv(min(left, CHUNK_BYTES), socket.MSG_TRUNC))
            if not count:
                raise ConnectionError
            left -= count
            self.link.passed(count)
        return size, bytes(kept)

    def _xml(self, root: str, inner: str, *, status: int = 200) -> None:
        text = f'<?xml version="1.0"?><{root} xmlns="{NAMESPACE}">{inner}</{root}>'
        self._answer(status, text.encode())

    def _answer(
        self, status: int, body: bytes = b"", *, etag: str = "x", size: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Last-Modified", formatdate(usegmt=True))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
