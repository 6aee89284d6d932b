"""Signed S3 requests that the `minio` client offers no call for, and the keys that sign them."""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit, urlunsplit

import certifi
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider
from minio.error import S3Error
from minio.helpers import BaseURL
from minio.signer import sign_v4_s3
from minio.time import to_amz_date, utcnow
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from runwire_schemas.connections.s3 import S3Settings, S3SettingsError
from runwire_store.s3.errors import check_answer
from runwire_store.store import StoreRefused

__all__ = ["Blocks", "FileSlice", "SettingsCredentials", "SignedRequests", "new_pool"]

# Long enough for a store under load, short enough to notice one that hangs.
CONNECT_S: Final = 5.0
READ_S: Final = 60.0
# Covers failures of a second or two; for longer ones the caller retries.
_RETRIES: Final = 3
_BACKOFF_S: Final = 0.3
# Parts leave in blocks of this size; urllib3's own 16 KiB cost more than the copying.
_BLOCK_BYTES: Final = 1024 * 1024
_CONNECTIONS: Final = 8
# Amazon's "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with
# Object Lock parameters" (InvalidRequest); other servers have codes such as MissingContentMD5.
_MD5_WANTED: Final = re.compile(r"content-?md5", re.IGNORECASE)


def new_pool(settings: S3Settings, *, read_s: float = READ_S) -> PoolManager:
    """Return connections with timeouts and a few retries.

    Each new connection reads the certificates again, so that renewed ones are used.
    """
    authority = settings.ssl_ca_location or os.environ.get("SSL_CERT_FILE")
    return PoolManager(
        timeout=Timeout(connect=CONNECT_S, read=read_s),
        maxsize=_CONNECTIONS,
        blocksize=_BLOCK_BYTES,
        cert_reqs="CERT_REQUIRED",
        ca_certs=authority or certifi.where(),
        cert_file=settings.ssl_certificate_location or None,
        key_file=settings.ssl_key_location or None,
        retries=Retry(
            total=_RETRIES,
            read=1,
            backoff_factor=_BACKOFF_S,
            status_forcelist=(500, 502, 503, 504),
            raise_on_status=False,  # the answer holds the reason
            respect_retry_after_header=False,  # the caller decides about longer pauses
        ),
    )


class SettingsCredentials(Provider):
    """Access and secret key of the settings; key files are read again once they changed.

    Threads: any. Raises: StoreRefused for key files that cannot be read at the start; later the
    keys read before are used until the files can be read again.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        names = (settings.access_key_file, settings.secret_key_file)
        self._files = [Path(name).expanduser() for name in names if name]
        self._known = self._seen(), self._read()

    def retrieve(self) -> Credentials:
        """Return the current keys; the client calls this before every request."""
        before, keys = self._known
        now = self._seen()
        if now != before:
            try:
                keys = self._read()
            except StoreRefused:
                return keys  # being written at this moment
            self._known = now, keys
        return keys

    def _read(self) -> Credentials:
        try:
            return Credentials(*self._settings.identity)
        except S3SettingsError as error:
            raise StoreRefused(str(error)) from error

    def _seen(self) -> list[Any]:
        seen: list[Any] = []
        for file in self._files:
            try:
                found = file.stat()
                seen.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError:
                seen.append(None)
        return seen


class FileSlice:
    """A range of a file as a request body; at most one block of it is in memory."""

    def __init__(self, fd: int, start: int, length: int) -> None:
        self._fd, self._start, self.length = fd, start, length
        self._at = 0
        self.trouble: OSError | None = None

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes. Raises: OSError when the file got shorter."""
        left = self.length - self._at
        count = left if count < 0 else min(count, left)
        try:
            data = os.pread(self._fd, count, self._start + self._at) if count else b""
            if count and not data:
                raise OSError(errno.EIO, "the file got shorter while it was sent")
        except OSError as error:
            self.trouble = error  # urllib3 reports it as an error of the connection
            raise
        self._at += len(data)
        return data

    def tell(self) -> int:
        """Return how much was read; urllib3 calls this before a retry."""
        return self._at

    def seek(self, at: int) -> None:
        """Continue reading at this position."""
        self._at = at

    def sha256(self) -> str:
        """Return the digest of the range and rewind to its start."""
        digest = hashlib.sha256()
        while data := self.read(_BLOCK_BYTES):
            digest.update(data)
        self.seek(0)
        return digest.hexdigest()


class Blocks:
    """Several buffers as one request body; nothing is copied."""

    trouble: OSError | None = None

    def __init__(self, blocks: Sequence[bytes | memoryview]) -> None:
        self._blocks = [memoryview(block) for block in blocks if len(block)]
        self.length = sum(len(block) for block in self._blocks)
        self._at = 0

    def read(self, count: int = -1) -> memoryview:
        """Return the next bytes, at most to the end of a block."""
        start = self._at
        for block in self._blocks:
            if start < len(block):
                found = block[start:] if count < 0 else block[start : start + count]
                self._at += len(found)
                return found
            start -= len(block)
        return memoryview(b"")

    def tell(self) -> int:
        """Return how much was read; urllib3 calls this before a retry."""
        return self._at

    def seek(self, at: int) -> None:
        """Continue reading at this position."""
        self._at = at

    def sha256(self) -> str:
        """Return the digest of all of it."""
        digest = hashlib.sha256()
        for block in self._blocks:
            digest.update(block)
        return digest.hexdigest()


def _md5(body: bytes | FileSlice | Blocks) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(body, bytes):
        digest.update(body)
    else:
        body.seek(0)
        while block := body.read(_BLOCK_BYTES):
            digest.update(block)
        body.seek(0)
    return base64.b64encode(digest.digest()).decode()


class SignedRequests:
    """Signed requests of one bucket; errors are the client's, see `errors.translating_errors`."""

    def __init__(
        self, settings: S3Settings, client: Minio, http: PoolManager, slow_read_s: float
    ) -> None:
        self.settings, self.client = settings, client
        self._http = http
        self._timeout = Timeout(connect=CONNECT_S, read=READ_S)
        self._slow = Timeout(connect=CONNECT_S, read=slow_read_s)
        self._keys = SettingsCredentials(settings)
        self._region = settings.region
        self._is_locked = False  # whether PUT requests need an MD5

    def send(
        self,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        *,
        body: bytes | FileSlice | Blocks = b"",
        headers: Mapping[str, str] | None = None,
        is_slow: bool = False,
    ) -> BaseHTTPResponse:
        """Send a request about an object, or the bucket, and return the answer, read to its end.

        The body's SHA-256 is signed too, so the server refuses a body damaged on its way.
        """
        sending = functools.partial(self._send, method, key, query, body=body, is_slow=is_slow)
        if not self._is_locked:
            try:
                return sending(headers=headers)
            except S3Error as error:
                if method != "PUT" or not _MD5_WANTED.search(f"{error.code} {error.message}"):
                    raise
        # A bucket with object lock takes no object without; others do not cost us the MD5.
        if method == "PUT":
            headers = {**(headers or {}), "Content-MD5": _md5(body)}
        answer = sending(headers=headers)
        self._is_locked = True
        return answer

    def _send(
        self,
        method: str,
        key: str | None,
        query: Mapping[str, str],
        *,
        body: bytes | FileSlice | Blocks,
        headers: Mapping[str, str] | None,
        is_slow: bool,
    ) -> BaseHTTPResponse:
        if isinstance(body, bytes):
            length, sha256 = len(body), hashlib.sha256(body).hexdigest()
        else:
            length, sha256 = body.length, body.sha256()
        region, at = self._find_region(), utcnow()
        url = BaseURL(self.settings.url, region).build(
            method=method,
            region=region,
            bucket_name=self.settings.bucket,
            object_name=key,
            query_params=dict(query),
        )
        signed: dict[str, str | list[str] | tuple[str]] = {
            **(headers or {}),
            "Host": url.netloc,
            "Content-Length": str(length),
            "x-amz-content-sha256": sha256,
            "x-amz-date": to_amz_date(at),
        }
        signed = sign_v4_s3(
            method=method,
            url=url,
            region=region,
            headers=signed,
            credentials=self._keys.retrieve(),
            content_sha256=sha256,
            date=at,
        )
        try:
            response = self._http.urlopen(
                method,
                urlunsplit(url),
                body=body,
                headers={name: str(value) for name, value in signed.items()},
                timeout=self._slow if is_slow else self._timeout,
            )
        except HTTPError:
            if not isinstance(body, bytes) and body.trouble is not None:
                raise body.trouble from None
            raise
        check_answer(response)
        return response

    def _find_region(self) -> str:
        if not self._region:
            # The client asks the store once; the signed address contains the answer.
            url = self.client.get_presigned_url("GET", self.settings.bucket, "any")
            self._region = parse_qs(urlsplit(url).query)["X-Amz-Credential"][0].split("/")[-3]
        return self._region
