"""Multipart uploads of S3 that several processes continue, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final
from xml.etree import ElementTree as ET

from minio.datatypes import ListPartsResult
from minio.error import S3Error

from runwire_store.keys import checked_key
from runwire_store.part_uploads import Part
from runwire_store.s3.errors import SomethingGone, told
from runwire_store.s3.multipart import completion, upload_id_of
from runwire_store.s3.requests import Blocks, Requests
from runwire_store.store import NotFound

__all__ = ["S3Uploads"]

# 409: another request for the same key is being decided; whoever wins, there will be one.
_TAKEN: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})


class S3Uploads:
    """Uploads into one bucket. Threads: safe."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def put_new(self, key: str, data: bytes) -> bool:
        """Store a small object unless there is one of this key; return whether it was stored.

        Of two that come within the same moment versitygw stores both: read back which one stayed.
        """
        with self._told(key):
            try:
                self._requests.send("PUT", key, {}, body=data, headers={"If-None-Match": "*"})
            except S3Error as error:
                if error.code in _TAKEN:
                    return False
                raise
        return True

    def begin(self, key: str) -> str:
        """Begin an upload of an object; return its id."""
        with self._told(key):
            return upload_id_of(self._requests.send("POST", key, {"uploads": ""}).data)

    def put_part(
        self, key: str, upload: str, number: int, *, blocks: Sequence[bytes | memoryview]
    ) -> str:
        """Store a part, numbered from 1; return its etag. Raises: NotFound for no such upload."""
        query = {"partNumber": str(number), "uploadId": upload}
        with self._told(key):
            answer = self._requests.send("PUT", key, query, body=Blocks(blocks))
        return str(answer.headers["ETag"]).strip('"')

    def parts(self, key: str, upload: str) -> dict[int, Part]:
        """Return the parts that are there. Raises: NotFound for no such upload."""
        found: dict[int, Part] = {}
        mark = ""
        while True:
            query = {"uploadId": upload, **({"part-number-marker": mark} if mark else {})}
            with self._told(key):
                page = ListPartsResult(self._requests.send("GET", key, query))
            for part in page.parts:
                found[part.part_number] = Part(part.size or 0, part.etag.strip('"'))
            if not page.is_truncated or not page.next_part_number_marker:
                return found
            mark = str(page.next_part_number_marker)

    def complete(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """Make exactly these parts the object.

        Raises: NotFound when the upload is gone, perhaps completed, or a part is another by now.
        """
        body = ET.tostring(completion(etags))
        with self._told(key):
            self._requests.send("POST", key, {"uploadId": upload}, body=body, is_slow=True)

    def abandon(self, key: str, upload: str) -> None:
        """Let the store forget an upload; one that is not there is no error."""
        with suppress(NotFound), self._told(key):
            self._requests.send("DELETE", key, {"uploadId": upload})

    def read(self, key: str, start: int, size: int) -> bytes:
        """Return a range of an object. Raises: NotFound."""
        wanted = {"Range": f"bytes={start}-{start + size - 1}"}
        with self._told(key):
            return bytes(self._requests.send("GET", key, {}, headers=wanted).data)

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            with told(self._requests.settings, checked_key(key)):
                yield
        except SomethingGone as error:
            raise NotFound(str(error)) from error
