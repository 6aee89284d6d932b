"""A store in a bucket of S3: MinIO, versitygw, Ceph, a cloud's, through the `minio` client."""

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
from runwire_store.keys import checked_key, checked_prefix
from runwire_store.store import NotFound, Progress, Stat, StoreAway, StoreRefused

try:
    from minio import Minio
    from minio.commonconfig import ComposeSource
    from minio.deleteobjects import DeleteObject
except ImportError as error:
    raise StoreRefused(
        f"RUNWIRE_S3_ENDPOINT is set, but the S3 client is not installed ({error}): "
        "pip install 'runwire[s3]'"
    ) from error

from runwire_store.s3.errors import told
from runwire_store.s3.keys import Keys
from runwire_store.s3.multipart import PART_BYTES, expire, put_parts
from runwire_store.s3.part_uploads import S3Uploads
from runwire_store.s3.requests import Requests, new_pool

__all__ = ["S3Store", "new_client"]

_READ_BYTES: Final = 1024 * 1024
# A cut download goes on at once, as long as each try brings bytes; the caller may call again.
_TRIES: Final = 5
# Servers may copy all parts before they answer: 900 s are 100 GB at 110 MB/s.
JOIN_TIMEOUT_S: Final = 900.0


class S3Store:
    """Objects of one bucket, as one identity.

    Threads: safe, not across a fork. Raises: StoreRefused for key files that cannot be read.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self._http, self._slow_http = new_pool(), new_pool(read_s=JOIN_TIMEOUT_S)
        self._client = new_client(settings, self._http)
        self._slow = new_client(settings, self._slow_http)
        self._requests = Requests(settings, self._client, self._http, JOIN_TIMEOUT_S)
        self._is_bucket_known = False

    @property
    def uri(self) -> str:
        """Return "s3://bucket"."""
        return f"s3://{self.settings.bucket}"

    @property
    def uploads(self) -> S3Uploads:
        """Return what makes objects of parts."""
        return S3Uploads(self._requests)

    def check(self) -> None:
        """Prove that the bucket is there and can be read. Raises: StoreRefused, StoreAway."""
        with told(self.settings):
            # One answer of at most the top folders; unlike HEAD it says why when it refuses.
            next(self._client.list_objects(self.settings.bucket), None)
        self._is_bucket_known = True

    def put(self, key: str, data: bytes) -> None:
        """Store a small object, over one of the same key."""
        with told(self.settings, checked_key(key)):
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
        """Store a file, a large one in parts of which several are on their way.

        `progress` may raise: the transfer stops there. Raises: OSError when `path` cannot be read.
        """
        checked_key(key)
        with path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            if size > PART_BYTES:
                put_parts(self._requests, key, source.fileno(), journal=journal, progress=progress)
                return
            with told(self.settings, key):
                self._client.put_object(
                    self.settings.bucket, key, source, size, part_size=PART_BYTES
                )
        if progress is not None:
            progress(size)

    def get(self, key: str) -> bytes:
        """Return a small object. Raises: NotFound."""
        with told(self.settings, checked_key(key)):
            response = self._client.get_object(self.settings.bucket, key)
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

    def get_file(self, key: str, path: Path, *, progress: Progress | None = None) -> None:
        """Bring an object to `path`, from where an earlier call stopped.

        Raises: NotFound; OSError when `path` cannot be written.
        """
        found = self.stat(key)
        if found is None:
            raise NotFound(f"there is no {key} in {self.uri} at {self.settings.url}")
        with resume_into(path, found.size, progress=progress) as part:
            start = part.start
            for left in reversed(range(_TRIES)):
                try:
                    with told(self.settings, key):
                        self._fill(key, part, start, found.size)
                    break
                except StoreAway:
                    reached = os.lseek(part.fd, 0, os.SEEK_CUR)
                    if reached == start or not left:
                        raise
                    start = reached

    def stat(self, key: str) -> Stat | None:
        """Return what is known of an object, to the second; None when there is none."""
        try:
            with self._told_of_heads(checked_key(key)):
                found = self._client.stat_object(self.settings.bucket, key)
        except NotFound:
            return None
        return Stat(key, found.size or 0, _ns(found.last_modified))

    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield all objects whose key starts with `prefix`, ordered by key."""
        checked_prefix(prefix)
        with told(self.settings):
            objects = iter(
                self._client.list_objects(self.settings.bucket, prefix=prefix, recursive=True)
            )
        while True:
            with told(self.settings):
                found = next(objects, None)
            if found is None:
                return
            if not found.is_dir:
                yield Stat(found.object_name, found.size or 0, _ns(found.last_modified))

    def compose(self, key: str, parts: Sequence[str]) -> None:
        """Join objects in the order given. Raises: NotFound for a missing part."""
        if not parts:
            raise ValueError("there are no parts to join")
        sources = [ComposeSource(self.settings.bucket, checked_key(part)) for part in parts]
        with self._told_of_heads(checked_key(key)):
            self._slow.compose_object(self.settings.bucket, key, sources)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        objects = [DeleteObject(checked_key(key)) for key in keys]
        with told(self.settings):
            for left in self._client.remove_objects(self.settings.bucket, objects):
                if left.code != "NoSuchKey":
                    raise StoreRefused(
                        f"{left.name} in {self.uri} at {self.settings.url} cannot be deleted: "
                        f"{left.message} ({left.code}). `runwire migrate --print s3` prints the "
                        "policies"
                    )

    def expire_uploads(self, older_than_s: float) -> int:
        """Give up multipart uploads that began longer ago; return how many.

        MinIO lists none and gives up its own after a day.
        """
        return expire(self._requests, datetime.now(UTC) - timedelta(seconds=older_than_s))

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()
        self._slow_http.clear()

    @contextmanager
    def _told_of_heads(self, key: str) -> Iterator[None]:
        """Make errors sentences where a HEAD may have failed, which has no body to say why."""
        try:
            with told(self.settings, key):
                yield
        except NotFound:
            if not self._is_bucket_known:
                self.check()
            raise
        except StoreRefused:
            self.check()  # the keys may be wrong by now
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
    """Return the client itself. Raises: StoreRefused for key files that cannot be read."""
    return Minio(
        settings.address,
        credentials=Keys(settings),
        secure=settings.is_secure,
        region=settings.region or None,
        http_client=http,
    )


def _ns(at: datetime | None) -> int:
    return 0 if at is None else int(at.timestamp() * 1_000_000) * 1000
