"""Stores that refuse: full, without their bucket, or with a changed password.

Agent and worker log what to do, keep everything, and resume once it was done.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from minio.credentials import StaticProvider
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.minioadmin import MinioAdmin
from urllib3 import PoolManager

from faults.objects import report
from faults.objects.conftest import OpenRig
from faults.objects.finish import finish
from faults.objects.form import AMID_BYTES, only_long
from faults.objects.observer import Observer
from faults.objects.plain import PlainS3
from faults.objects.rig import Rig
from faults.objects.verdict import assert_whole
from runwire_schemas.connections.s3 import S3Settings
from support.servers import ObjectStore

pytestmark = pytest.mark.engine

USER, FIRST, SECOND = "fault-user", "the-first-secret", "the-second-secret"


@pytest.fixture
def admin(minio: ObjectStore) -> Iterator[MinioAdmin]:
    """The administrator who may change users and quotas of MinIO."""
    keys = StaticProvider(minio.access_key, minio.secret_key)
    with PoolManager() as pool:
        yield MinioAdmin(endpoint=minio.address, credentials=keys, secure=False, http_client=pool)


def refuse(
    rig: Rig, break_it: Callable[[], None], repair: Callable[[], None], *sentences: str,
    first: Callable[[], bool] = lambda: True, word: str = "",
) -> None:  # fmt: skip
    """Break the store in a transfer, wait for the sentences, repair it and see the transfer end."""
    with Observer(rig.plain()) as observer:
        calls = [("file", AMID_BYTES), ("folder", 0)]
        rig.start_trainer([rig.calls.call(kind, size) for kind, size in calls])
        rig.wait("all calls", lambda: rig.acknowledged() == len(calls))
        agent = rig.start_agent()
        worker = rig.start_worker(member="one") if rig.route == "kafka" else None
        rig.wait("the transfer to begin", first, every_s=0.005)
        break_it()

        def is_logged() -> bool:
            text = rig.trouble() if worker is None else worker.log_text
            return all(sentence in text for sentence in sentences)

        try:
            rig.wait(f"a log line with {sentences}", is_logged)
            agent.check() if worker is None else worker.check()
        finally:
            repair()
        verdict = finish(rig, observer)
    where = "folder" if rig.s3 is None else "MinIO"
    report.note(f"the store refuses: {word}", f"{rig.route}, {where}", verdict)
    assert_whole(verdict)


def something_arrived(store: PlainS3) -> Callable[[], bool]:
    return lambda: bool(store.sizes() or store.unfinished())


@pytest.mark.parametrize("route", [only_long("direct"), "kafka"])
def test_artifacts_arrive_after_the_password_file_is_changed(
    route: str, open_rig: OpenRig, minio_bucket: S3Settings, *, admin: MinioAdmin, tmp_path: Path
) -> None:
    """The new password in the file of the old one is enough: no process is restarted."""
    admin.user_add(USER, FIRST)
    admin.policy_set("readwrite", user=USER)
    file = tmp_path / "secret"
    file.write_text(FIRST)
    own = replace(minio_bucket, access_key=USER, secret_key="", secret_key_file=str(file))
    rig = open_rig(route, s3=own)
    root = PlainS3(minio_bucket)
    rig.plain = lambda: PlainS3(minio_bucket)  # type: ignore[method-assign]
    refuse(
        rig,
        lambda: admin.user_add(USER, SECOND) and None,
        lambda: file.write_text(SECOND) and None,
        "the secret key does not fit the access key",
        "RUNWIRE_S3_SECRET_KEY_FILE",
        first=something_arrived(root),
        word="password changed",
    )
    admin.user_remove(USER)
    root.close()


@pytest.mark.parametrize("route", ["direct", only_long("kafka")])
def test_artifacts_arrive_after_the_quota_of_a_full_store_is_raised(
    route: str, open_rig: OpenRig, minio_bucket: S3Settings, admin: MinioAdmin
) -> None:
    """The quota is reached in the middle of a file."""
    rig = open_rig(route, s3=minio_bucket)
    root = PlainS3(minio_bucket)
    refuse(
        rig,
        lambda: admin.bucket_quota_set(minio_bucket.bucket, 2**20) and None,
        lambda: admin.bucket_quota_clear(minio_bucket.bucket) and None,
        "the store is full: free space there, raise its quota",
        first=something_arrived(root),
        word="full",
    )
    root.close()


def lose(store: PlainS3) -> None:
    """Delete a bucket with everything in it, however busy it is."""
    client, name = store.client, store.bucket
    while client.bucket_exists(name):
        for line in store.unfinished():
            with contextlib.suppress(S3Error):
                store.abandon(line)
        found = [DeleteObject(key) for key in store.sizes()]
        list(client.remove_objects(name, found))
        with contextlib.suppress(S3Error):  # something came meanwhile
            client.remove_bucket(name)


def test_transfer_starts_again_when_its_bucket_was_lost(
    open_rig: OpenRig, minio_bucket: S3Settings
) -> None:
    """The outbox still has the content, and it is sent again from the start."""
    rig = open_rig("direct", s3=minio_bucket)
    root = PlainS3(minio_bucket)
    refuse(
        rig,
        lambda: lose(root),
        lambda: root.client.make_bucket(minio_bucket.bucket),
        "there is no such bucket: `runwire migrate` makes it",
        first=lambda: bool(root.unfinished()),
        word="bucket lost",
    )
    root.close()


@pytest.mark.parametrize("route", [only_long("kafka")])
def test_pieces_wait_in_kafka_until_the_bucket_exists(
    route: str, open_rig: OpenRig, minio_bucket: S3Settings
) -> None:
    """Nothing is committed while the bucket is missing, and everything arrives afterwards."""
    rig = open_rig(route, s3=minio_bucket)
    root = PlainS3(minio_bucket)
    lose(root)
    refuse(
        rig,
        lambda: None,
        lambda: root.client.make_bucket(minio_bucket.bucket),
        "there is no such bucket: `runwire migrate` makes it",
        word="bucket missing",
    )
    root.close()


def mounted(*words: str) -> bool:
    """Whether a mount succeeded; it needs rights that a developer may not have."""
    if os.geteuid() != 0:
        return False
    return not subprocess.run(["mount", *words], check=False, capture_output=True).returncode


def test_agent_resumes_by_itself_once_the_store_disk_has_room(open_rig: OpenRig) -> None:
    """A real file system returns ENOSPC; with more room there the agent continues by itself."""
    rig = open_rig("direct", kafka=False)
    folder = rig.root / "objects"
    folder.mkdir(mode=0o700)
    if not mounted("-t", "tmpfs", "-o", "size=40m,mode=0700", "tmpfs", str(folder)):
        pytest.skip("mounting a small file system needs root and the right to mount")
    try:
        refuse(
            rig,
            lambda: None,
            lambda: mounted("-o", "remount,size=900m", str(folder)) and None,
            "no room for",
            word="disk full",
        )
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
