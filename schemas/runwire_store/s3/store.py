"""The object store in an S3 bucket (MinIO, versitygw, Ceph, cloud), through the `minio` client."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.folder.files import PartFile, resume_into
from runwire_store.layout import check_key, check_key_prefix
from runwire_store.store import NotFound, Progress, Stat, StoreAway, StoreRefused

try:
    from minio import Minio
    from minio.commonconfig import ENABLED, ComposeSource
    from minio.deleteobjects import DeleteObject
except ImportError as error:
    raise StoreRefused(
        f"RUNWIRE_S3_ENDPOINT is set, but the S3 client is not installed ({error}): "
        "pip install 'runwire[s3]'"
    ) from error

from runwire_store.s3.errors import translating_errors
from runwire_store.s3.multipart import PART_BYTES, S3PartUploads, expire, put_parts
from runwire_store.s3.requests import SettingsCredentials, SignedRequests, new_pool

__all__ = ["S3Store", "new_client"]

_READ_BYTES: Final = 1024 * 1024
# A cut download is resumed at once as long as each try brings bytes; then the caller retries.
_TRIES: Final = 5
# Servers may copy all parts before they answer: 900 s are 100 GB at 110 MB/s.
JOIN_TIMEOUT_S: Final = 900.0


class S3Store:
    """Objects of one bucket, accessed with one key.

    Threads: safe, not across a fork. Raises: StoreRefused for key files that cannot be read.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self._http = new_pool(settings)
        self._slow_http = new_pool(settings, read_s=JOIN_TIMEOUT_S)
        self._client = new_client(settings, self._http)
        self._slow = new_client(settings, self._slow_http)
        self._requests = SignedRequests(settings, self._client, self._http, JOIN_TIMEOUT_S)
        self._is_bucket_known = False

    @property
    def uri(self) -> str:
        """Return "s3://bucket"."""
        return f"s3://{self.settings.bucket}"

    @property
    def part_uploads(self) -> S3PartUploads:
        """Return the uploads that make objects of parts."""
        return S3PartUploads(self._requests)

    def check(self) -> None:
        """Prove that the bucket exists and can be read. Raises: StoreRefused, StoreAway."""
        with translating_errors(self.settings):
            # At most one page with the top folders; unlike HEAD a refusal has a reason.
            next(self._client.list_objects(self.settings.bucket), None)
        self._is_bucket_known = True

    def put(self, key: str, data: bytes) -> None:
        """Store a small object; one of the same key is replaced."""
        with translating_errors(self.settings, check_key(key)):
            size = len(data)
            part_bytes = max(PART_BYTES, size)  # one request, so that the ETag is the MD5
            self._client.put_object(
                self.settings.bucket, key, io.BytesIO(data), size, part_size=part_bytes
            )

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        journal: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Store a file; a large one as several parts in parallel.

        `progress` may raise: the transfer stops there. Raises: OSError when `path` cannot be read.
        """
        check_key(key)
        with path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            if size > PART_BYTES:
                put_parts(self._requests, key, source.fileno(), journal=journal, progress=progress)
                return
            with translating_errors(self.settings, key):
                self._client.put_object(
                    self.settings.bucket, key, source, size, part_size=PART_BYTES
                )
        if progress is not None:
            progress(size)

    def get(self, key: str) -> bytes:
        """Return a small object. Raises: NotFound."""
        with translating_errors(self.settings, check_key(key)):
            response = self._client.get_object(self.settings.bucket, key)
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

    def get_file(self, key: str, path: Path, *, progress: Progress | None = None) -> None:
        """Download an object to `path`; an interrupted call is resumed.

        Raises: NotFound; OSError when `path` cannot be written.
        """
        found = self.stat(key)
        if found is None:
            raise NotFound(f"there is no {key} in {self.uri} at {self.settings.url}")
        with resume_into(path, found.size, progress=progress) as part:
            start = part.start
            for left in reversed(range(_TRIES)):
                try:
                    with translating_errors(self.settings, key):
                        self._fill(key, part, start, found.size)
                    break
                except StoreAway:
                    reached = os.lseek(part.fd, 0, os.SEEK_CUR)
                    if reached == start or not left:
                        raise
                    start = reached

    def stat(self, key: str) -> Stat | None:
        """Return size and time (to the second) of an object, None when there is none."""
        try:
            with self._translating_head_errors(check_key(key)):
                found = self._client.stat_object(self.settings.bucket, key)
        except NotFound:
            return None
        return Stat(key, found.size or 0, _ns(found.last_modified))

    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield all objects whose key starts with `prefix`, ordered by key."""
        check_key_prefix(prefix)
        with translating_errors(self.settings):
            objects = iter(
                self._client.list_objects(self.settings.bucket, prefix=prefix, recursive=True)
            )
        while True:
            with translating_errors(self.settings):
                found = next(objects, None)
            if found is None:
                return
            if not found.is_dir:
                yield Stat(found.object_name, found.size or 0, _ns(found.last_modified))

    def compose(self, key: str, parts: Sequence[str]) -> None:
        """Join objects in the order given. Raises: NotFound for a missing part."""
        if not parts:
            raise ValueError("there are no parts to join")
        sources = [ComposeSource(self.settings.bucket, check_key(part)) for part in parts]
        with self._translating_head_errors(check_key(key)):
            self._slow.compose_object(self.settings.bucket, key, sources)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error."""
        objects = [DeleteObject(check_key(key)) for key in keys]
        with translating_errors(self.settings):
            for left in self._client.remove_objects(self.settings.bucket, objects):
                if left.code != "NoSuchKey":
                    raise StoreRefused(
                        f"{left.name} in {self.uri} at {self.settings.url} cannot be deleted: "
                        f"{left.message} ({left.code}). `runwire migrate --print s3` prints the "
                        "policies"
                    )

    def keeps_versions(self) -> bool:
        """Return whether the bucket is versioned; False where this key may not ask."""
        try:
            with translating_errors(self.settings):
                status = self._client.get_bucket_versioning(self.settings.bucket).status
        except StoreRefused:
            return False  # policies made before this was asked, or a server without versions
        return bool(status == ENABLED)

    def expire_uploads(self, older_than_s: float) -> int:
        """Abort multipart uploads that are older; return how many.

        MinIO lists none and aborts its own after a day.
        """
        return expire(self._requests, datetime.now(UTC) - timedelta(seconds=older_than_s))

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()
        self._slow_http.clear()

    @contextmanager
    def _translating_head_errors(self, key: str) -> Iterator[None]:
        """Translate errors of calls that send a HEAD, whose refusals have no reason."""
        try:
            with translating_errors(self.settings, key):
                yield
        except NotFound:
            if not self._is_bucket_known:
                self.check()
            raise
        except StoreRefused:
            self.check()  # the credentials may have changed
            raise

    def _fill(self, key: str, part: PartFile, start: int, size: int) -> None:
        if start == size:
            return
        response = self._client.get_object(self.settings.bucket, key, offset=start)
        try:
            for data in response.stream(_READ_BYTES):
                part.write(data)
        finally:
            response.close()
            response.release_conn()


def new_client(settings: S3Settings, http: Any) -> Minio:
    """Return a `minio` client. Raises: StoreRefused for key files that cannot be read."""
    return Minio(
        settings.address,
        credentials=SettingsCredentials(settings),
        secure=settings.is_secure,
        region=settings.region or None,
        http_client=http,
    )


def _ns(at: datetime | None) -> int:
    return 0 if at is None else int(at.timestamp() * 1_000_000) * 1000
