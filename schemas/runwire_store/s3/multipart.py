"""Large files into S3, in parts: an interrupted transfer goes on with the parts that are missing.

The journal is a line about the transfer and a line for each part that the server has. It is
believed only as long as the server knows the transfer too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from html import unescape
from pathlib import Path
from threading import Lock
from typing import Any, Final
from xml.etree import ElementTree as ET

from minio.datatypes import ListMultipartUploadsResult

from runwire_store.s3.errors import SomethingGone, told
from runwire_store.s3.requests import FileSlice, Requests
from runwire_store.store import UNAVAILABLE, NotFound, Progress, StoreAway

__all__ = ["PART_BYTES", "completion", "expire", "put_parts", "upload_id_of"]

MIB: Final = 1024 * 1024
# Few requests, and little to send again after a cut; benchmarks of both servers are flat from 8 on.
PART_BYTES: Final = 16 * MIB
PARTS_MAX: Final = 10_000  # of S3
PARALLEL: Final = 3  # as many as the client's own put_object
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"


def put_parts(
    requests: Requests,
    key: str,
    source: int,
    *,
    journal: Path | None,
    progress: Progress | None,
) -> None:
    """Store the file of a descriptor. Raises: StoreRefused, StoreAway; OSError from reading.

    Without a journal an error ends the transfer, with one the next call goes on.
    """
    told_of = _Told(progress)
    for is_last in (False, True):
        told_of.now = 0
        transfer = Transfer(requests, key, source, journal=journal, progress=told_of)
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


class Transfer:
    """One multipart upload: `begin` or take up, `send_missing`, `complete`."""

    def __init__(
        self,
        requests: Requests,
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
        """Take up the transfer of the journal, or begin one."""
        if not self._take_up():
            with told(self._requests.settings, self._key):
                answer = self._requests.send("POST", self._key, {"uploads": ""})
            self._upload_id = upload_id_of(answer.data)
        if self._journal is not None:
            lines = [self._facts | {"upload_id": self._upload_id}, *self._etags.items()]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            fresh = self._journal.with_name(self._journal.name + ".part")
            fresh.write_text(text)
            fresh.replace(self._journal)
        if self._etags:
            self._progress(sum(self._length(number) for number in self._etags))

    def send_missing(self) -> None:
        """Send the parts that the server does not have. Blocks: until all are there."""
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
        """Make the parts one object."""
        root = completion(self._etags)
        query = {"uploadId": self._upload_id}
        try:
            with told(self._requests.settings, self._key):
                self._requests.send("POST", self._key, query, body=ET.tostring(root), is_slow=True)
        except SomethingGone:
            # The answer of an earlier try may have been lost, or its caller killed.
            if not self._is_there():
                raise
        self.forget()

    def forget(self) -> None:
        """Remove the journal."""
        if self._journal is not None:
            self._journal.unlink(missing_ok=True)

    def abort(self) -> None:
        """Have the server remove the parts; what it refuses expires there."""
        if self._upload_id:
            query = {"uploadId": self._upload_id}
            with suppress(*UNAVAILABLE), told(self._requests.settings, self._key):
                self._requests.send("DELETE", self._key, query)

    def _take_up(self) -> bool:
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
        with told(self._requests.settings, self._key):
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
        with suppress(NotFound), told(self._requests.settings, self._key):
            found = self._requests.client.stat_object(self._requests.settings.bucket, self._key)
            # An ETag ends with the number of parts; its digits are no MD5 on encrypted buckets.
            is_ours = str(found.etag).endswith(f"-{len(self._etags)}")
            return is_ours and found.size == self._size
        return False


def expire(requests: Requests, before: datetime) -> int:
    """Give up the uploads of the bucket that began before; return how many."""
    expired, marks = 0, dict[str, str]()
    while True:
        query: dict[str, str] = {"uploads": "", "prefix": "", "delimiter": "", **marks}
        with told(requests.settings):
            page = ListMultipartUploadsResult(requests.send("GET", None, query))
        for upload in page.uploads:
            if upload.initiated_time is None or upload.initiated_time >= before:
                continue
            key, query = upload.object_name or "", {"uploadId": upload.upload_id or ""}
            with suppress(NotFound, SomethingGone), told(requests.settings, key):
                requests.send("DELETE", key, query)
                expired += 1
        if not page.is_truncated:
            return expired
        marks = {
            "key-marker": page.next_key_marker or "",
            "upload-id-marker": page.next_upload_id_marker or "",
        }


def completion(etags: Mapping[int, str]) -> ET.Element:
    """Return what says that these parts, by number, are the object."""
    root = ET.Element("CompleteMultipartUpload", xmlns=_NAMESPACE)
    for number, etag in sorted(etags.items()):
        part = ET.SubElement(root, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = f'"{etag}"'
    return root


def upload_id_of(answer: bytes) -> str:
    """Return the id of the upload that an answer says was begun. Raises: StoreAway."""
    found = _UPLOAD_ID.search(answer)
    if found is None:
        raise StoreAway("the store began a transfer without saying which; it is tried again")
    return unescape(found[1].decode())


class _Told:
    """Keeps the sum right when a transfer has to begin anew: what was told is not told again."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._most = self.now = 0

    def __call__(self, count: int) -> None:
        self.now += count
        more = max(0, self.now - self._most)
        self._most += more
        if self._progress is not None:
            self._progress(more)
