"""Transfers into real S3 servers that are killed, cut and lied to: resumed, or absent."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.s3.errors import translating_errors
from runwire_store.s3.requests import FileSlice
from runwire_store.s3.store import S3Store
from runwire_store.store import StoreAway
from support.relay import Relay
from support.servers import ObjectStore

MIB = 1024 * 1024
SIZE = 100 * MIB + 4321  # seven parts
KEY = "blobs/aa/large"
PATIENCE_S = 60.0
UPLOAD = """
import sys
from pathlib import Path
from runwire_store.s3.store import S3Store
from runwire_schemas.connections.s3 import from_environment
import os
S3Store(from_environment(os.environ)).put_file(
    sys.argv[1], Path(sys.argv[2]), journal=Path(sys.argv[3])
)
"""


@pytest.fixture(params=["versitygw", "minio"])
def server(request: pytest.FixtureRequest) -> ObjectStore:
    name = {"versitygw": "s3", "minio": "minio"}[request.param]
    found: ObjectStore = request.getfixturevalue(name)
    return found


@pytest.fixture
def settings(server: ObjectStore) -> Iterator[S3Settings]:
    yield from server.new_bucket()


@pytest.fixture
def store(settings: S3Settings) -> Iterator[S3Store]:
    opened = S3Store(settings)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    path = tmp_path_factory.mktemp("source") / "large"
    path.write_bytes(random.Random(seed).randbytes(SIZE))
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def assert_whole(store: S3Store, source: Path, folder: Path) -> None:
    """The object is there once, equal, and no transfer is left behind."""
    assert [(s.key, s.size) for s in store.list("")] == [(KEY, SIZE)]
    store.get_file(KEY, folder / "back")
    assert digest(folder / "back") == digest(source)
    assert store.expire_uploads(-5.0) == 0


def test_a_server_killed_in_a_transfer(
    server: ObjectStore, store: S3Store, source: Path, tmp_path: Path
) -> None:
    """The call says that it is away; the same call goes on when it is back."""
    journal, told_of = tmp_path / "journal", list[int]()

    def kill(count: int) -> None:
        told_of.append(count)
        if len(told_of) == 3:
            server.server.kill()

    with pytest.raises(StoreAway, match="does not answer"):
        store.put_file(KEY, source, journal=journal, progress=kill)
    server.server.start()
    assert list(store.list("")) == []
    sent, told_of = sum(told_of), []
    store.put_file(KEY, source, journal=journal, progress=told_of.append)
    assert sum(told_of) == SIZE
    assert told_of[0] == sent  # what the server had was not sent again
    assert not journal.exists()
    assert_whole(store, source, tmp_path)


def test_a_client_killed_in_a_transfer(
    store: S3Store, source: Path, tmp_path: Path, seed: int
) -> None:
    """At any moment, several times over."""
    chosen, journal = random.Random(seed), tmp_path / "journal"
    command = [sys.executable, "-c", UPLOAD, KEY, str(source), str(journal)]
    environ = os.environ | store.settings.environment()
    for _ in range(3):
        child = subprocess.Popen(command, env=environ)
        wanted = parts_in(journal) + chosen.randrange(3)
        until = time.monotonic() + PATIENCE_S
        while child.poll() is None and parts_in(journal) < wanted:
            assert time.monotonic() < until
            time.sleep(0.001)
        child.kill()
        assert child.wait() in {0, -signal.SIGKILL}
        assert [s.size for s in store.list("")] in ([], [SIZE])
    store.put_file(KEY, source, journal=journal)
    store.expire_uploads(-5.0)  # a kill between the server's answer and the journal leaves one
    assert_whole(store, source, tmp_path)


def test_the_answer_to_the_last_request_was_lost(
    store: S3Store, source: Path, tmp_path: Path
) -> None:
    """The object is complete and the journal does not know: nothing is sent again."""
    journal, kept, told_of = tmp_path / "journal", tmp_path / "kept", list[int]()

    def keep(_count: int) -> None:
        shutil.copyfile(journal, kept)

    store.put_file(KEY, source, journal=journal, progress=keep)
    assert parts_in(kept) == 7
    shutil.copyfile(kept, journal)
    store.put_file(KEY, source, journal=journal, progress=told_of.append)
    assert told_of == [SIZE]
    assert_whole(store, source, tmp_path)


def test_a_journal_that_is_wrong_about_parts(store: S3Store, source: Path, tmp_path: Path) -> None:
    """Parts that the server lost in a crash: the transfer begins anew."""
    journal, kept = tmp_path / "journal", tmp_path / "kept"

    def stop(_count: int) -> None:
        shutil.copyfile(journal, kept)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        store.put_file(KEY, source, journal=journal, progress=stop)
    with journal.open("a") as lines:
        for number in range(1, 8):
            lines.write(json.dumps([number, "0" * 32]) + "\n")
    told_of = list[int]()
    store.put_file(KEY, source, journal=journal, progress=told_of.append)
    assert sum(told_of) == SIZE
    store.expire_uploads(-5.0)
    assert_whole(store, source, tmp_path)


def test_a_journal_of_another_bucket(
    settings: S3Settings, store: S3Store, source: Path, tmp_path: Path
) -> None:
    """Or file, or size: it says nothing about this transfer."""
    journal = tmp_path / "journal"
    facts = {"to": ["http://elsewhere:9000", settings.bucket, KEY], "size": SIZE}
    facts |= {"part_bytes": 16 * MIB, "upload_id": "theirs"}
    journal.write_text(json.dumps(facts) + '\n[1, "00"]\n')
    store.put_file(KEY, source, journal=journal)
    assert_whole(store, source, tmp_path)


@pytest.mark.parametrize("times", [1, 2])
def test_connections_cut_while_uploading(
    store: S3Store, source: Path, tmp_path: Path, times: int
) -> None:
    """A cut in the middle of a part is tried again; the caller hears of longer trouble only."""
    with Relay(store.settings.address) as relay:
        cut = S3Store(replace(store.settings, endpoint=f"http://{relay.address}"))
        relay.cut_after(up=40 * MIB, times=times)
        for _ in range(5):
            try:
                cut.put_file(KEY, source, journal=tmp_path / "journal")
                break
            except StoreAway:
                assert list(store.list("")) == []
        assert relay.cuts == times
        cut.close()
    assert_whole(store, source, tmp_path)


def test_connections_cut_while_downloading(
    settings: S3Settings, store: S3Store, source: Path, tmp_path: Path
) -> None:
    """The call goes on by itself, and fetches nothing twice but what was on its way."""
    store.put_file(KEY, source)
    with Relay(settings.address) as relay:
        cut = S3Store(replace(settings, endpoint=f"http://{relay.address}"))
        relay.cut_after(down=30 * MIB, times=3)
        told_of = list[int]()
        cut.get_file(KEY, tmp_path / "cut", progress=told_of.append)
        assert relay.cuts == 3
        assert sum(told_of) == SIZE
        assert relay.moved["down"] < SIZE + 30 * MIB
        cut.close()
    assert digest(tmp_path / "cut") == digest(source)


def test_a_server_killed_while_downloading(
    server: ObjectStore, store: S3Store, source: Path, tmp_path: Path
) -> None:
    """The part file stays, the name does not appear; the next call fetches the rest."""
    store.put_file(KEY, source)
    told_of, path = list[int](), tmp_path / "back"

    def kill(count: int) -> None:
        if not told_of:
            server.server.kill()
        told_of.append(count)

    with pytest.raises(StoreAway):
        store.get_file(KEY, path, progress=kill)
    assert not path.exists()
    had = (tmp_path / "back.part").stat().st_size
    assert 0 < had < SIZE
    server.server.start()
    told_of = [0]
    store.get_file(KEY, path, progress=told_of.append)
    assert told_of[1] == had
    assert sum(told_of) == SIZE
    assert digest(path) == digest(source)


def test_a_part_damaged_on_its_way_is_refused(
    settings: S3Settings, store: S3Store, source: Path
) -> None:
    """The server compares each part with its digest: what it has is what we read."""

    class Damaged(FileSlice):
        def sha256(self) -> str:
            return hashlib.sha256(b"what was read").hexdigest()

    with source.open("rb") as file, pytest.raises(StoreAway), translating_errors(settings, KEY):
        store._requests.send("PUT", KEY, {}, body=Damaged(file.fileno(), 0, MIB))
    assert list(store.list("")) == []


def test_a_file_that_got_shorter(store: S3Store, source: Path, tmp_path: Path) -> None:
    """Reading fails and nothing appears."""
    copy = tmp_path / "copy"
    shutil.copyfile(source, copy)

    def shorten(_count: int) -> None:
        os.truncate(copy, MIB)

    with pytest.raises(OSError, match="shorter"):
        store.put_file(KEY, copy, progress=shorten)
    assert list(store.list("")) == []
    assert store.expire_uploads(-5.0) == 0  # without a journal an error takes the parts with it


def parts_in(journal: Path) -> int:
    try:
        return max(0, len(journal.read_text().splitlines()) - 1)
    except FileNotFoundError:
        return 0
