"""Requests of S3 that the client makes only inside its own calls: signed by it, sent beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit, urlunsplit

import certifi
from minio import Minio
from minio.credentials.providers import StaticProvider
from minio.helpers import BaseURL
from minio.signer import presign_v4
from minio.time import utcnow
from urllib3 import PoolManager, Retry, Timeout

from runwire_schemas.objects.s3_errors import answered
from runwire_schemas.s3_settings import S3Settings

__all__ = ["Requests", "new_pool"]

# Long enough for a store under load, short enough to notice one that hangs.
CONNECT_S: Final = 5.0
READ_S: Final = 60.0
# Passing trouble of a second or two; what lasts longer is the caller's to wait for.
_RETRIES: Final = 3
_BACKOFF_S: Final = 0.3
# Parts leave in blocks of this size; urllib3's own 16 KiB cost more than the copying.
_BLOCK_BYTES: Final = 1024 * 1024
# Signed right before it is sent; the rest is for clocks that differ.
_VALID: Final = timedelta(hours=1)
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
        ),
    )


class Requests:
    """Signed requests of one bucket; errors are the client's own, for `s3_errors.told`."""

    def __init__(
        self, settings: S3Settings, client: Minio, http: PoolManager, slow_read_s: float
    ) -> None:
        self.settings = settings
        self.client, self._http = client, http
        self._timeout = Timeout(connect=CONNECT_S, read=READ_S)
        self._slow = Timeout(connect=CONNECT_S, read=slow_read_s)

    def send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        is_slow: bool = False,
    ) -> Any:
        """Send a request about one object and return the answer, read to its end."""
        url = self.client.get_presigned_url(
            method, self.settings.bucket, key, expires=_VALID, extra_query_params=dict(query)
        )
        timeout = self._slow if is_slow else self._timeout
        response = self._http.urlopen(
            method, url, body=body, headers=dict(headers or {}), timeout=timeout
        )
        answered(response)
        return response

    def send_to_bucket(self, method: str, query: Mapping[str, str]) -> Any:
        """Send a request about the bucket itself."""
        # The client signs objects' addresses alone, with the region that it found out.
        signed = self.client.get_presigned_url(method, self.settings.bucket, "any")
        region = parse_qs(urlsplit(signed).query)["X-Amz-Credential"][0].split("/")[-3]
        url = presign_v4(
            method=method,
            url=BaseURL(self.settings.url, region).build(
                method=method,
                region=region,
                bucket_name=self.settings.bucket,
                query_params=dict(query),
            ),
            region=region,
            credentials=StaticProvider(*self.settings.identity).retrieve(),
            date=utcnow(),
            expires=int(_VALID.total_seconds()),
        )
        response = self._http.urlopen(method, urlunsplit(url))
        answered(response)
        return response
