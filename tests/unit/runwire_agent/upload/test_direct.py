"""The transport of the direct route: the state of store and outbox, also after failures."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_agent.upload import direct
from runwire_agent.upload.transport import Stopped
from runwire_disk.outbox.request import RequestFile, content_path
from runwire_store.catalog import Catalog
from runwire_store.folder.store import FolderStore
from runwire_store.layout import BLOBS, blob_key
from runwire_store.manifest import CheckpointFacts
from runwire_store.memory import MemoryObjectStore
from runwire_store.retention import Retention
from runwire_store.store import StoreAway, StoreRefused
from support.uploads import UploadRig, folder_of, leave, sha256, with_digests


@pytest.fixture
def rig(tmp_path: Path) -> UploadRig:
    return UploadRig(tmp_path)


def test_uploaded_artifact_is_published_recorded_and_removed_from_the_outbox(
    rig: UploadRig,
) -> None:
    """Manifest and blobs are in the store, "complete" is recorded, the request is gone."""
    request = leave(rig.root, [b"one", b"two", b""], aliases=("good",), metadata={"a": 1})
    rig.work()
    manifest = rig.manifest(request)
    assert manifest is not None
    assert [(e.path, e.size, e.sha256) for e in manifest.files] == [
        (f.path, f.size, sha256(c))
        for f, c in zip(request.files, [b"one", b"two", b""], strict=True)
    ]
    assert rig.blob(b"one") == b"one"
    (said,) = rig.told
    assert (said.event, said.artifact, said.sha256) == (
        "complete",
        request.artifact,
        manifest.digest,
    )
    assert (said.aliases, said.metadata, said.bytes) == (["good"], '{"a": 1}', 6)
    assert said.version_at_ns == manifest.version_at_ns > 0
    assert said.uri == f"{rig.store.uri}/{manifest.key}"
    assert list((rig.root / "outbox").iterdir()) == []
    assert Catalog(rig.store).resolve("things:good", "p").manifest == manifest


def test_uri_of_a_single_file_is_its_blob(rig: UploadRig) -> None:
    """The recorded address of an artifact of one file is the blob itself."""
    leave(rig.root, b"only")
    rig.work()
    assert rig.told[0].uri == f"{rig.store.uri}/{blob_key(sha256(b'only'))}"


def test_file_by_reference_is_published_without_a_blob(rig: UploadRig, tmp_path: Path) -> None:
    """The manifest names path and digest; no content is uploaded."""
    there = tmp_path / "model.bin"
    there.write_bytes(b"weights")
    file = RequestFile(path="model.bin", index=0, size=7, source=str(there))
    request = leave(rig.root, [], files=(file,))
    rig.work()
    manifest = rig.manifest(request)
    assert manifest is not None
    (entry,) = manifest.files
    assert (entry.uri, entry.sha256) == (there.as_uri(), sha256(b"weights"))
    assert list(rig.store.list(BLOBS)) == []
    assert rig.told[0].uri == there.as_uri()


def test_equal_content_of_two_artifacts_is_uploaded_once(rig: UploadRig) -> None:
    """The second upload finds the blob and skips it."""
    first = leave(rig.root, [b"same", b"same"])
    second = leave(rig.root, b"same")
    rig.work()
    assert len(list(rig.store.list(BLOBS))) == 1
    assert rig.manifest(first) is not None
    assert rig.manifest(second) is not None


@pytest.mark.parametrize("error", [StoreAway("no answer"), StoreRefused("no such bucket")])
def test_store_failure_is_reported_and_the_request_stays(
    rig: UploadRig, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """All requests of that store rest; it is opened anew and nothing is lost."""
    is_away = True

    def trouble(verb: str, key: str) -> None:
        if is_away:
            raise error

    rig.store = MemoryObjectStore(trouble=trouble)
    requests = [leave(rig.root, b"a"), leave(rig.root, b"b")]
    rig.work()
    said = rig.uploader.report()
    assert said["cause"] == ("store_away" if isinstance(error, StoreAway) else "store_refused")
    assert (said["sentence"], said["waiting"]) == (str(error), 2)
    assert said["since_ns"] > 0
    rig.now_s += 1.5
    rig.work()
    assert caplog.text.count(str(error)) == 1
    is_away = False
    rig.now_s += 30.0
    rig.work()
    assert all(rig.manifest(request) is not None for request in requests)
    assert rig.uploader.report()["cause"] == ""
    assert rig.waiting == []


def test_content_that_is_gone_fails_the_artifact(rig: UploadRig) -> None:
    """Its folder is kept aside with the reason, and others go on."""
    lost, other = leave(rig.root, b"lost"), leave(rig.root, b"other")
    content_path(folder_of(rig.root, lost), 0).unlink()
    rig.work()
    failed = next(e for e in rig.told if e.artifact == lost.artifact)
    assert (failed.event, failed.bytes, failed.sha256) == ("failed", 4, "")
    assert "is gone from the outbox" in (failed.reason or "")
    aside = rig.root / "outbox" / f"failed-{lost.artifact}"
    assert (aside / "reason.txt").read_text().strip() == failed.reason
    assert rig.manifest(other) is not None
    assert rig.uploader.report()["failed"] == 1


@pytest.mark.parametrize("content", [b"other content", b"longer than it was"])
def test_content_that_changed_fails_the_artifact(rig: UploadRig, content: bytes) -> None:
    """The digest that the saver computed is compared with what lies there."""
    request = leave(rig.root, b"right content")
    with_digests(request, b"right content").commit(folder_of(rig.root, request))
    content_path(folder_of(rig.root, request), 0).write_bytes(content)
    rig.work()
    assert rig.told[0].event == "failed"
    assert "no longer what was logged" in (rig.told[0].reason or "")
    assert list(rig.store.list(BLOBS)) == []


def test_content_changed_during_its_upload_is_deleted_from_the_store(rig: UploadRig) -> None:
    """The blob would have a wrong name; the artifact fails."""
    request = leave(rig.root, b"right content")
    path = content_path(folder_of(rig.root, request), 0)

    def write(verb: str, key: str) -> None:
        if verb == "put_file":
            path.write_bytes(b"wrong content")
            os.utime(path, ns=(1, 1))

    rig.store = MemoryObjectStore(trouble=write)
    rig.work()
    assert rig.told[0].event == "failed"
    assert list(rig.store.list(BLOBS)) == []


def test_damaged_request_is_set_aside_with_its_reason(rig: UploadRig) -> None:
    """An unreadable request leaves the outbox for people to look at."""
    request = leave(rig.root)
    (folder_of(rig.root, request) / "request.json").write_text('{"files": []}')
    rig.work()
    (aside,) = (rig.root / "outbox").iterdir()
    assert aside.name == f"failed-{request.artifact}"
    assert "damaged" in (aside / "reason.txt").read_text()


def test_request_stays_in_the_outbox_until_its_events_are_recorded(rig: UploadRig) -> None:
    """A full disk: the store has it, the outbox too, until the event is written down."""
    request = leave(rig.root)
    rig.has_room = False
    rig.work()
    assert rig.manifest(request) is not None
    assert rig.waiting == [request.artifact]
    assert not rig.uploader.is_settled
    rig.has_room = True
    rig.work()
    assert [e.event for e in rig.told] == ["complete"]
    assert rig.waiting == []
    assert rig.uploader.is_settled


def test_next_agent_records_completion_after_a_kill_before_the_record(rig: UploadRig) -> None:
    """The same version, told again: publishing is the same however often."""
    request = leave(rig.root)
    rig.has_room = False
    rig.work()
    first = rig.manifest(request)
    rig.uploader.close()
    rig.start()
    rig.has_room = True
    rig.work()
    assert rig.manifest(request) == first
    assert [e.version_at_ns for e in rig.told] == [first.version_at_ns if first else 0]


def test_a_digest_is_computed_once(rig: UploadRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store fails after hashing; the next agent finds the digest in the journal."""
    leave(rig.root, b"content")
    rig.store = MemoryObjectStore(trouble=_no_put)
    rig.work()
    rig.uploader.close()
    read: list[int] = []
    monkeypatch.setattr(direct.Pace, "worked", lambda _, size: read.append(size))
    rig.store = MemoryObjectStore()
    rig.start()
    rig.work()
    assert rig.told[-1].event == "complete"
    assert sum(read) == 7  # moved once, not read for hashing again


def _no_put(verb: str, key: str) -> None:
    if verb == "put_file":
        raise StoreAway("gone")


def test_ending_agent_stops_in_the_middle_of_a_transfer(rig: UploadRig, tmp_path: Path) -> None:
    """The transfer raises Stopped and the request stays in the outbox."""
    request = leave(rig.root, os.urandom(3 << 20))
    rig.stop.set()
    with pytest.raises(Stopped):
        rig.uploader.work()
    rig.uploader.close()
    rig.start()
    rig.work()
    assert rig.manifest(request) is not None


def test_request_claimed_by_one_agent_is_skipped_by_another(rig: UploadRig) -> None:
    """Two agents never upload the same request at once."""
    leave(rig.root)
    rig.has_room = False
    rig.uploader.work()  # shipped, and held until it is recorded
    other = UploadRig(rig.root)
    other.work()
    assert other.told == []
    assert not other.uploader.is_settled or other.waiting


def test_missing_blobs_are_stored_again(rig: UploadRig) -> None:
    """A sweep was faster than the publication."""
    request = leave(rig.root, b"swept")
    swept: list[str] = []

    def sweep(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("names/") and not swept:
            swept.append(key)
            rig.store.delete([blob_key(sha256(b"swept"))])

    rig.store = MemoryObjectStore(trouble=sweep)
    rig.work()
    assert "blobs of 'things' are not in" in rig.uploader.report()["sentence"]
    rig.now_s += 2.0
    rig.work()
    assert rig.manifest(request) is not None


def checkpoint(rig: UploadRig, step: int, **facts: object) -> str:
    rules = Retention(keep_last=1, **facts).as_json()  # type: ignore[arg-type]
    about = CheckpointFacts(step=step, retention=rules)
    request = leave(rig.root, b"%d" % step, type="checkpoint", checkpoint=about)
    rig.work()
    return request.artifact


def test_retention_deletes_expired_checkpoints_and_records_them(rig: UploadRig) -> None:
    """Expired manifests are gone from the store and recorded as deleted."""
    first = checkpoint(rig, 1)
    second = checkpoint(rig, 2)
    assert [(e.event, e.artifact) for e in rig.told] == [
        ("complete", first),
        ("complete", second),
        ("deleted", first),
    ]
    assert rig.told[-1].reason == "retention"
    assert [c.step for c in Catalog(rig.store).checkpoints("p", "r1")] == [2]


def test_blobs_of_released_checkpoints_are_swept_from_the_folder_store(
    rig: UploadRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of this machine is swept with the uploads: no worker does it."""
    monkeypatch.setattr(direct, "TIDY_S", 0.0)
    checkpoint(rig, 1)
    checkpoint(rig, 2)
    assert [rig.blob(b"%d" % step) for step in (1, 2)] == [b"1", b"2"]  # younger than the grace
    monkeypatch.setattr(direct, "GRACE_S", -1.0)
    checkpoint(rig, 3)
    blobs = [stat.key for stat in rig.store.list(BLOBS)]
    assert blobs == [blob_key(sha256(b"3"))]


def test_next_agent_records_a_deletion_after_a_kill_before_the_record(rig: UploadRig) -> None:
    """Killed between the deletion and the word."""
    first = checkpoint(rig, 1)
    rig.has_room = False
    second = checkpoint(rig, 2)
    rig.uploader.close()
    assert [c.step for c in Catalog(rig.store).checkpoints("p", "r1")] == [2]
    rig.start()
    rig.has_room = True
    rig.work()
    assert [(e.event, e.artifact) for e in rig.told[1:]] == [
        ("complete", second),
        ("deleted", first),
    ]


def test_rules_of_a_newer_runwire_delete_nothing(
    rig: UploadRig, caplog: pytest.LogCaptureFixture
) -> None:
    """Rules with an unknown field keep every checkpoint."""
    checkpoint(rig, 1)
    about = CheckpointFacts(step=2, retention={"keep_last": 1, "keep_odd": True})
    leave(rig.root, b"2", type="checkpoint", checkpoint=about)
    rig.work()
    assert [c.step for c in Catalog(rig.store).checkpoints("p", "r1")] == [1, 2]
    assert "keep_odd" in caplog.text


def test_folder_store_receives_manifest_and_blobs(rig: UploadRig, tmp_path: Path) -> None:
    """The direct route works on a folder as on any other store."""
    rig.store = FolderStore(tmp_path / "objects")
    request = leave(rig.root, b"content")
    rig.work()
    assert rig.manifest(request) is not None
    assert rig.blob(b"content") == b"content"


def test_requests_of_another_store_wait_without_keeping_the_agent_alive(rig: UploadRig) -> None:
    """Keys that this agent was not given: told, and not counted as its own."""
    store = {
        "endpoint": "http://s:9000",
        "bucket": "b12",
        "access_key": "a",
        "secret_key": "environment RUNWIRE_S3_SECRET_KEY",
    }
    leave(rig.root, store=store)
    rig.work()
    said = rig.uploader.report()
    assert (said["waiting"], said["elsewhere"], said["cause"]) == (1, 1, "other_store")
    assert "b12 at http://s:9000" in said["sentence"]
    assert rig.uploader.waiting() == []


def test_key_files_give_access_to_a_store_of_another_run(rig: UploadRig, tmp_path: Path) -> None:
    """A store whose keys are in files is opened; one with keys in an environment is not."""
    store = {
        "endpoint": "http://s:9000",
        "bucket": "b12",
        "access_key": "a",
        "secret_key": f"file {tmp_path / 'key'}",
    }
    request = leave(rig.root, store=store)
    rig.work()
    assert rig.manifest(request) is not None
    assert replace(request, store={}).store == {}
