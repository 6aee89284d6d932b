"""Multipart uploads of S3: a large file of one process, or parts sent by several processes.

`put_parts` resumes an interrupted file with the parts that are missing. Its journal has one line
about the transfer and one for each part that the server has; it counts only while the server knows
the transfer too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from html import unescape
from pathlib import Path
from threading import Lock
from typing import Any, Final
from xml.etree import ElementTree as ET

from minio.datatypes import ListMultipartUploadsResult, ListPartsResult
from minio.error import S3Error

from runwire_store.layout import check_key
from runwire_store.part_uploads import StoredPart
from runwire_store.s3.errors import SomethingGone, translating_errors
from runwire_store.s3.requests import Blocks, FileSlice, SignedRequests
from runwire_store.store import UNAVAILABLE, NotFound, Progress, StoreAway

__all__ = ["PART_BYTES", "S3PartUploads", "expire", "put_parts"]

MIB: Final = 1024 * 1024
# Few requests, and little to send again after a cut; benchmarks of both servers are flat from 8 on.
PART_BYTES: Final = 16 * MIB
PARTS_MAX: Final = 10_000  # of S3
PARALLEL: Final = 3  # as many as the client's own put_object
# 409: a concurrent request for the same key is being decided; either way the object will exist.
_TAKEN: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"


def put_parts(
    requests: SignedRequests,
    key: str,
    source: int,
    *,
    journal: Path | None,
    progress: Progress | None,
) -> None:
    """Store the file of a descriptor. Raises: StoreRefused, StoreAway; OSError from reading.

    Without a journal an error ends the transfer; with one the next call resumes it.
    """
    reported = _ReportOnce(progress)
    for is_last in (False, True):
        reported.now = 0
        transfer = FileTransfer(requests, key, source, journal=journal, progress=reported)
        try:
            transfer.begin()
            transfer.send_missing()
            transfer.complete()
        except SomethingGone:
            transfer.forget()
            if is_last:
                raise
        except BaseException:
            if journal is None:
                transfer.abort()
            raise
        else:
            return


class FileTransfer:
    """The multipart upload of one file: `begin` or resume, `send_missing`, `complete`."""

    def __init__(
        self,
        requests: SignedRequests,
        key: str,
        source: int,
        *,
        journal: Path | None,
        progress: Progress,
    ) -> None:
        size = os.fstat(source).st_size
        part_bytes = max(PART_BYTES, -(-size // PARTS_MAX // MIB + 1) * MIB)
        settings = requests.settings
        self._facts: dict[str, Any] = {
            "to": [settings.url, settings.bucket, key],
            "size": size,
            "part_bytes": part_bytes,
        }
        self._requests, self._key, self._source = requests, key, source
        self._size, self._part_bytes = size, part_bytes
        self._journal, self._progress = journal, progress
        self._upload_id, self._etags = "", dict[int, str]()
        self._lock = Lock()
        self._is_stopped = False

    def begin(self) -> None:
        """Resume the transfer of the journal, or start one."""
        if not self._resume():
            with translating_errors(self._requests.settings, self._key):
                answer = self._requests.send("POST", self._key, {"uploads": ""})
            self._upload_id = _parse_upload_id(answer.data)
        if self._journal is not None:
            lines = [self._facts | {"upload_id": self._upload_id}, *self._etags.items()]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            fresh = self._journal.with_name(self._journal.name + ".part")
            fresh.write_text(text)
            fresh.replace(self._journal)
        if self._etags:
            self._progress(sum(self._length(number) for number in self._etags))

    def send_missing(self) -> None:
        """Send the parts that the server does not have. Blocks: until it has all."""
        count = -(-self._size // self._part_bytes)
        missing = iter([n for n in range(1, count + 1) if n not in self._etags])
        with ThreadPoolExecutor(PARALLEL, "runwire-parts") as threads:
            workers = [threads.submit(self._send_from, missing) for _ in range(PARALLEL)]
            try:
                for worker in workers:
                    worker.result()
            finally:
                self._is_stopped = True

    def complete(self) -> None:
        """Join the parts to one object."""
        root = _completion(self._etags)
        query = {"uploadId": self._upload_id}
        try:
            with translating_errors(self._requests.settings, self._key):
                self._requests.send("POST", self._key, query, body=ET.tostring(root), is_slow=True)
        except SomethingGone:
            # An earlier try may have succeeded: its answer was lost, or its caller killed.
            if not self._is_there():
                raise
        self.forget()

    def forget(self) -> None:
        """Remove the journal."""
        if self._journal is not None:
            self._journal.unlink(missing_ok=True)

    def abort(self) -> None:
        """Have the server delete the parts; if it refuses, they expire there."""
        if self._upload_id:
            query = {"uploadId": self._upload_id}
            with suppress(*UNAVAILABLE), translating_errors(self._requests.settings, self._key):
                self._requests.send("DELETE", self._key, query)

    def _resume(self) -> bool:
        try:
            lines = self._journal.read_text().splitlines() if self._journal else []
        except (FileNotFoundError, UnicodeDecodeError):
            return False
        notes = []
        for line in lines:
            with suppress(ValueError):  # the last one may be torn
                notes.append(json.loads(line))
        if not notes or not isinstance(notes[0], dict):
            return False
        self._upload_id = str(notes[0].pop("upload_id", ""))
        if notes[0] != self._facts or not self._upload_id:
            return False
        self._etags = {int(number): str(etag) for number, etag in notes[1:]}
        return True

    def _send_from(self, missing: Iterator[int]) -> None:
        try:
            while True:
                with self._lock:
                    number = None if self._is_stopped else next(missing, None)
                if number is None:
                    return
                etag = self._send(number)
                with self._lock:
                    self._note(number, etag)
        except BaseException:
            self._is_stopped = True
            raise

    def _send(self, number: int) -> str:
        body = FileSlice(self._source, (number - 1) * self._part_bytes, self._length(number))
        query = {"partNumber": str(number), "uploadId": self._upload_id}
        with translating_errors(self._requests.settings, self._key):
            answer = self._requests.send("PUT", self._key, query, body=body)
        return str(answer.headers["ETag"]).strip('"')

    def _note(self, number: int, etag: str) -> None:
        self._etags[number] = etag
        if self._journal is not None:
            with self._journal.open("a") as lines:
                lines.write(json.dumps([number, etag]) + "\n")
        self._progress(self._length(number))

    def _length(self, number: int) -> int:
        return min(self._part_bytes, self._size - (number - 1) * self._part_bytes)

    def _is_there(self) -> bool:
        with suppress(NotFound), translating_errors(self._requests.settings, self._key):
            found = self._requests.client.stat_object(self._requests.settings.bucket, self._key)
            # An ETag ends with the number of parts; its digits are no MD5 on encrypted buckets.
            is_ours = str(found.etag).endswith(f"-{len(self._etags)}")
            return is_ours and found.size == self._size
        return False


class S3PartUploads:
    """Multipart uploads of one bucket that several processes continue in turn. Threads: safe."""

    def __init__(self, requests: SignedRequests) -> None:
        self._requests = requests

    def put_new(self, key: str, data: bytes) -> bool:
        """Store a small object unless there is one of this key; return whether it was stored.

        versitygw may store both of two simultaneous calls: read back which one stayed.
        """
        with self._translating_errors(key):
            try:
                self._requests.send("PUT", key, {}, body=data, headers={"If-None-Match": "*"})
            except S3Error as error:
                if error.code in _TAKEN:
                    return False
                raise
        return True

    def begin(self, key: str) -> str:
        """Start an upload of an object; return its id."""
        with self._translating_errors(key):
            return _parse_upload_id(self._requests.send("POST", key, {"uploads": ""}).data)

    def put_part(
        self, key: str, upload: str, number: int, *, blocks: Sequence[bytes | memoryview]
    ) -> str:
        """Store a part, numbered from 1; return its etag. Raises: NotFound for no such upload."""
        query = {"partNumber": str(number), "uploadId": upload}
        with self._translating_errors(key):
            answer = self._requests.send("PUT", key, query, body=Blocks(blocks))
        return str(answer.headers["ETag"]).strip('"')

    def parts(self, key: str, upload: str) -> dict[int, StoredPart]:
        """Return the parts that the store has. Raises: NotFound for no such upload."""
        found: dict[int, StoredPart] = {}
        mark = ""
        while True:
            query = {"uploadId": upload, **({"part-number-marker": mark} if mark else {})}
            with self._translating_errors(key):
                page = ListPartsResult(self._requests.send("GET", key, query))
            for part in page.parts:
                found[part.part_number] = StoredPart(part.size or 0, part.etag.strip('"'))
            if not page.is_truncated or not page.next_part_number_marker:
                return found
            mark = str(page.next_part_number_marker)

    def complete(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """Make exactly these parts the object.

        Raises: NotFound when the upload is gone (perhaps completed) or a part was replaced.
        """
        body = ET.tostring(_completion(etags))
        with self._translating_errors(key):
            self._requests.send("POST", key, {"uploadId": upload}, body=body, is_slow=True)

    def abandon(self, key: str, upload: str) -> None:
        """Abort an upload; a missing one is no error."""
        with suppress(NotFound), self._translating_errors(key):
            self._requests.send("DELETE", key, {"uploadId": upload})

    def read(self, key: str, start: int, size: int) -> bytes:
        """Return a range of an object. Raises: NotFound."""
        wanted = {"Range": f"bytes={start}-{start + size - 1}"}
        with self._translating_errors(key):
            return bytes(self._requests.send("GET", key, {}, headers=wanted).data)

    def _translating_errors(self, key: str) -> AbstractContextManager[None]:
        return translating_errors(self._requests.settings, check_key(key), gone=NotFound)


def expire(requests: SignedRequests, before: datetime) -> int:
    """Abort the bucket's uploads that began before this time; return how many."""
    expired, marks = 0, dict[str, str]()
    while True:
        query: dict[str, str] = {"uploads": "", "prefix": "", "delimiter": "", **marks}
        with translating_errors(requests.settings):
            page = ListMultipartUploadsResult(requests.send("GET", None, query))
        for upload in page.uploads:
            if upload.initiated_time is None or upload.initiated_time >= before:
                continue
            key, query = upload.object_name or "", {"uploadId": upload.upload_id or ""}
            with suppress(NotFound, SomethingGone), translating_errors(requests.settings, key):
                requests.send("DELETE", key, query)
                expired += 1
        if not page.is_truncated:
            return expired
        marks = {
            "key-marker": page.next_key_marker or "",
            "upload-id-marker": page.next_upload_id_marker or "",
        }


def _completion(etags: Mapping[int, str]) -> ET.Element:
    """Return the request body that makes these parts, by number, the object."""
    root = ET.Element("CompleteMultipartUpload", xmlns=_NAMESPACE)
    for number, etag in sorted(etags.items()):
        part = ET.SubElement(root, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = f'"{etag}"'
    return root


def _parse_upload_id(answer: bytes) -> str:
    """Return the id of the upload that this answer announces. Raises: StoreAway."""
    found = _UPLOAD_ID.search(answer)
    if found is None:
        raise StoreAway("the store started a transfer without naming its id; runwire tries again")
    return unescape(found[1].decode())


class _ReportOnce:
    """Progress of a transfer that may start again: bytes reported once are not reported twice."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._most = self.now = 0

    def __call__(self, count: int) -> None:
        self.now += count
        more = max(0, self.now - self._most)
        self._most += more
        if self._progress is not None:
            self._progress(more)
