"""Requests of S3 that the client makes only inside its own calls: signed as it signs."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit, urlunsplit

import certifi
from minio import Minio
from minio.helpers import BaseURL
from minio.signer import sign_v4_s3
from minio.time import to_amz_date, utcnow
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.s3.errors import answered
from runwire_store.s3.keys import Keys

__all__ = ["Blocks", "FileSlice", "Requests", "new_pool"]

# Long enough for a store under load, short enough to notice one that hangs.
CONNECT_S: Final = 5.0
READ_S: Final = 60.0
# Passing trouble of a second or two; what lasts longer is the caller's to wait for.
_RETRIES: Final = 3
_BACKOFF_S: Final = 0.3
# Parts leave in blocks of this size; urllib3's own 16 KiB cost more than the copying.
_BLOCK_BYTES: Final = 1024 * 1024
_CONNECTIONS: Final = 8


def new_pool(*, read_s: float = READ_S) -> PoolManager:
    """Return connections with timeouts and a few retries; SSL_CERT_FILE names authorities."""
    return PoolManager(
        timeout=Timeout(connect=CONNECT_S, read=read_s),
        maxsize=_CONNECTIONS,
        blocksize=_BLOCK_BYTES,
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        retries=Retry(
            total=_RETRIES,
            read=1,
            backoff_factor=_BACKOFF_S,
            status_forcelist=(500, 502, 503, 504),
            raise_on_status=False,  # the answer says what went wrong
            respect_retry_after_header=False,  # longer pauses are the caller's
        ),
    )


class FileSlice:
    """A range of a file as a body; never more than a block of it in memory."""

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
            self.trouble = error  # on its way out it is taken for one of the connection
            raise
        self._at += len(data)
        return data

    def tell(self) -> int:
        """Return how much was read; urllib3 asks before it tries again."""
        return self._at

    def seek(self, at: int) -> None:
        """Read from there on."""
        self._at = at

    def sha256(self) -> str:
        """Return the digest of the range, and be at its start."""
        digest = hashlib.sha256()
        while data := self.read(_BLOCK_BYTES):
            digest.update(data)
        self.seek(0)
        return digest.hexdigest()


class Blocks:
    """Bytes that lie in several places as one body; nothing is copied."""

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
        """Return how much was read; urllib3 asks before it tries again."""
        return self._at

    def seek(self, at: int) -> None:
        """Read from there on."""
        self._at = at

    def sha256(self) -> str:
        """Return the digest of all of it."""
        digest = hashlib.sha256()
        for block in self._blocks:
            digest.update(block)
        return digest.hexdigest()


class Requests:
    """Signed requests of one bucket; errors are the client's own, for `s3_errors.told`."""

    def __init__(
        self, settings: S3Settings, client: Minio, http: PoolManager, slow_read_s: float
    ) -> None:
        self.settings, self.client = settings, client
        self._http = http
        self._timeout = Timeout(connect=CONNECT_S, read=READ_S)
        self._slow = Timeout(connect=CONNECT_S, read=slow_read_s)
        self._keys = Keys(settings)
        self._region = settings.region

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

        The body's SHA-256 is signed too: what is damaged on its way, the server refuses.
        """
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
        answered(response)
        return response

    def _find_region(self) -> str:
        if not self._region:
            # The client asks the store once; what it found shows in the addresses that it signs.
            url = self.client.get_presigned_url("GET", self.settings.bucket, "any")
            self._region = parse_qs(urlsplit(url).query)["X-Amz-Credential"][0].split("/")[-3]
        return self._region
