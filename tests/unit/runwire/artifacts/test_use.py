"""Reading artifacts back from the store alone, and the lineage that it leaves."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

import runwire
from runwire import ArtifactError, ArtifactRef
from runwire.run import Run
from runwire_disk.outbox.request import UploadRequest, outbox_dir
from runwire_store.layout import blob_key
from runwire_store.manifest import FileEntry, Manifest
from runwire_store.open import open_store
from runwire_store.publish import publish
from support.artifacts import artifact_events, contents, requests


def deliver(root: Path, request: UploadRequest) -> Manifest:
    """Do what an agent does on the direct route, in its simplest form."""
    import hashlib

    store = open_store(None, root)
    entries = []
    for path, data in contents(root, request).items():
        sha256 = hashlib.sha256(data).hexdigest()
        store.put(blob_key(sha256), data)
        entries.append(FileEntry(path=path, size=len(data), sha256=sha256))
    names = ("artifact", "project", "run_id", "attempt", "writer", "rank", "name", "type")
    manifest = Manifest(
        **{name: getattr(request, name) for name in names},
        created_at_ns=request.created_at_ns,
        aliases=request.aliases,
        metadata=request.metadata,
        checkpoint=request.checkpoint,
        files=tuple(entries),
    )
    published = publish(store, manifest, now_ns=time.time_ns())
    shutil.rmtree(outbox_dir(root) / request.artifact)
    return published


def deliver_all(root: Path) -> None:
    for request in requests(root):
        deliver(root, request)


def test_use_artifact_returns_the_logged_bytes(root: Path, run: Run, tmp_path: Path) -> None:
    """Logged by one run, used by another: the same bytes, and an event that says so."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "a").write_bytes(b"1")
    (tmp_path / "d" / "sub" / "b").write_bytes(b"")
    logged = run.log_artifact(tmp_path / "d", "data", type="dataset", aliases=["raw"])
    deliver_all(root)
    with runwire.init("p") as other:
        used = other.use_artifact("data:raw", type="dataset")
        folder = used.download()
    assert (used.id, used.name, used.type, used.size) == (logged.id, "data", "dataset", 1)
    assert folder.is_relative_to(root)
    assert (folder / "a").read_bytes() == b"1"
    assert (folder / "sub" / "b").read_bytes() == b""
    assert used.path("a") == folder / "a"
    (event,) = [e for e in artifact_events(root) if e.event == "used"]
    assert (event.artifact, event.run_id, event.name) == (logged.id, other.id, "data")
    assert (event.bytes, event.files) == (1, 2)
    assert event.version_at_ns
    assert event.uri == f"{open_store(None, root).uri}/{used.key}"


def test_versions_count_up_and_aliases_move(root: Path, run: Run) -> None:
    """Numbers count up, "latest" moves, an alias stays with its newest bearer."""
    for number in range(3):
        run.log_artifact(b"%d" % number, "model", aliases=["best"] if number == 1 else [])
        deliver_all(root)
    found = {ref: run.use_artifact(ref) for ref in ("model", "model:best", "model:v0", "p/model")}
    assert {ref: used.path().read_bytes() for ref, used in found.items()} == {
        "model": b"2", "model:best": b"1", "model:v0": b"0", "p/model": b"2",
    }  # fmt: skip
    assert [found[ref].version for ref in ("model:v0", "model:best", "model")] == [0, 1, 2]


def test_ref_waits_until_the_store_has_it(root: Path, run: Run, tmp_path: Path) -> None:
    """`wait` is false before delivery and true after it; then the ref can read the artifact."""
    ref = run.log_artifact(b"x", "a")
    assert ref.wait(0) is False
    assert ref.version is None
    with pytest.raises(ArtifactError, match=r"\.wait\(\)"):
        ref.download()
    thread = threading.Thread(target=deliver_all, args=(root,))
    thread.start()
    assert ref.wait(60) is True
    thread.join()
    assert ref.version == 0
    assert ref.path(dir=tmp_path / "here") == tmp_path / "here" / "a"
    assert (tmp_path / "here" / "a").read_bytes() == b"x"


def test_wait_ends_when_the_upload_failed(root: Path, run: Run) -> None:
    """Out of the outbox and not in the store: the agent set it aside."""
    ref = run.log_artifact(b"x", "a")
    (outbox_dir(root) / ref.id).rename(outbox_dir(root) / f"failed-{ref.id}")
    assert ref.wait(0) is False


def test_wait_on_the_kafka_route_ends_at_the_brokers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer without access to the store knows that the brokers have it, and no more."""
    monkeypatch.setenv("RUNWIRE_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with runwire.init("p", settings=runwire.Settings(strict=True)) as run:
        ref = run.log_artifact(b"x", "a")
        assert ref.wait(0) is False
        (outbox_dir(root) / ref.id).rename(root / "shipped")
        assert ref.wait(0) is True
        with pytest.raises(ArtifactError, match="set RUNWIRE_S3_ENDPOINT"):
            ref.download()
        with pytest.raises(ArtifactError, match="set RUNWIRE_S3_ENDPOINT"):
            run.use_artifact("a")


def is_undecided(ref: runwire.ArtifactRef) -> bool:
    """A decided `wait` returns at once, an undecided one at its timeout."""
    began_s = time.monotonic()
    return not ref.wait(0.05) and time.monotonic() - began_s >= 0.05


def test_wait_on_the_kafka_route_is_false_when_the_upload_failed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder set aside distinguishes a failed upload from one that the brokers have."""
    monkeypatch.setenv("RUNWIRE_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with runwire.init("p") as run:
        ref = run.log_artifact(b"x", "a")
    (outbox_dir(root) / ref.id).rename(outbox_dir(root) / f"failed-{ref.id}")
    assert ref.wait(0) is False


def test_wait_ends_when_the_artifact_was_deleted(root: Path, run: Run) -> None:
    """Deleted by retention, or failed and pruned: it will never arrive."""
    ref = run.log_artifact(b"x", "a")
    assert is_undecided(ref)
    open_store(None, root).delete([deliver(root, requests(root)[0]).key])
    assert ref.wait() is False
    pruned = run.log_artifact(b"y", "b")
    (outbox_dir(root) / pruned.id).rename(root / "pruned")
    assert pruned.wait() is False


def test_wait_looks_at_the_outbox_before_the_store(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that publishes between the two looks is not mistaken for a deletion."""
    ref = run.log_artifact(b"x", "a")
    exists = Path.exists

    def delivered_after(path: Path) -> bool:
        answer = exists(path)
        if path.name == ref.id and answer:
            deliver_all(root)
        return answer

    monkeypatch.setattr(Path, "exists", delivered_after)
    assert ref.wait(60) is True


def test_wait_for_the_object_worker_ends_at_a_deleted_version(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undecided until published; a version without a manifest was deleted."""
    store = open_store(None, root)
    monkeypatch.setattr("runwire_store.open.open_store", lambda *_: store)
    for name, value in {
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "ARTIFACT_ROUTE": "kafka",
        "S3_ENDPOINT": "http://127.0.0.1:1",
        "S3_ACCESS_KEY": "a",
        "S3_SECRET_KEY": "b",
    }.items():
        monkeypatch.setenv(f"RUNWIRE_{name}", value)
    with runwire.init("p") as run:
        ref = run.log_artifact(b"x", "a")
    (request,) = requests(root)
    kept = root / "kept"
    shutil.copytree(outbox_dir(root) / ref.id, kept)
    shutil.rmtree(outbox_dir(root) / ref.id)
    assert is_undecided(ref)
    kept.rename(outbox_dir(root) / ref.id)
    manifest = deliver(root, request)
    assert ref.wait() is True
    store.delete([manifest.key])
    assert ref.wait() is False


def test_use_artifact_raises_when_missing_even_if_not_strict(root: Path, lenient: Run) -> None:
    """The caller needs the result: None would fail later, far from the reason."""
    lenient.log_artifact(b"x", "a", type="model")
    deliver_all(root)
    with pytest.raises(ArtifactError, match="nothing"):
        lenient.use_artifact("nothing")
    with pytest.raises(ArtifactError, match="v7"):
        lenient.use_artifact("a:v7")
    with pytest.raises(ArtifactError, match="of type 'model', not 'dataset'"):
        lenient.use_artifact("a", type="dataset")
    with pytest.raises(ArtifactError, match="give 'name'"):
        lenient.use_artifact("")
    used = lenient.use_artifact("a")
    with pytest.raises(ArtifactError, match="no file 'b': it has a"):
        used.path("b")
    assert artifact_events(root)[-1].event == "used"


def test_download_refuses_damaged_content(root: Path, run: Run) -> None:
    """Content that is not what the manifest says is never handed out."""
    run.log_artifact(b"right", "a")
    sha256 = deliver(root, requests(root)[0]).files[0].sha256
    open_store(None, root).put(blob_key(sha256), b"wrong")
    used = run.use_artifact("a")
    with pytest.raises(ArtifactError, match=sha256[:16]):
        used.download()


def test_download_names_a_folder_that_cannot_be_written(
    root: Path, run: Run, tmp_path: Path
) -> None:
    """A file in its place, or below a file: an ArtifactError like all others."""
    run.log_artifact(b"x", "a")
    deliver_all(root)
    used = run.use_artifact("a")
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArtifactError, match=f"cannot be written to {folder}: .*dir="):
            used.download(folder)
        with pytest.raises(ArtifactError, match="cannot be written"):
            used.path("a", dir=folder)


def test_use_artifact_names_an_unreachable_store(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says which store; `wait` outlasts it."""
    pytest.importorskip("minio")
    for name, value in {
        "ENDPOINT": "http://127.0.0.1:1",
        "ACCESS_KEY": "a",
        "SECRET_KEY": "b",
    }.items():
        monkeypatch.setenv(f"RUNWIRE_S3_{name}", value)
    with runwire.init("p") as run:
        ref = run.log_artifact(b"x", "a")
        with pytest.raises(ArtifactError, match=r"127\.0\.0\.1:1"):
            run.use_artifact("a")
        (outbox_dir(root) / ref.id).rename(root / "away")
        assert ref.wait(0) is False


def test_ref_of_a_refused_call_is_usable() -> None:
    """It can be held, printed and waited for."""
    ref = ArtifactRef(id="", name="", type="", route="refused", size=0)
    assert ref.wait(0) is False
    assert "refused" in repr(ref)
