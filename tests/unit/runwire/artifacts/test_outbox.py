"""The outbox under pressure: routes, quota, threads, forks, a signal in the middle."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import threading
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

import runwire
from runwire import Artifact, ArtifactError, ConfigError
from runwire.outbox.capture import Capture
from runwire.run import Run
from runwire_disk.outbox.request import CAPTURE_LOCK, outbox_dir
from support.artifacts import artifact_events, contents, events, folders_in, requests

MIB = 1024 * 1024
KAFKA = {"RUNWIRE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
S3 = {
    "RUNWIRE_S3_ENDPOINT": "http://127.0.0.1:1",
    "RUNWIRE_S3_ACCESS_KEY": "a",
    "RUNWIRE_S3_SECRET_KEY": "b",
}


def started(patch: pytest.MonkeyPatch, environment: dict[str, str]) -> Run:
    """A strict run with these settings."""
    for name, value in {"RUNWIRE_STRICT": "1", **environment}.items():
        patch.setenv(name, value)
    return runwire.init("p")


@pytest.mark.parametrize(
    ("environment", "route", "has_store"),
    [
        ({}, "direct", False),
        (KAFKA, "kafka", False),
        (S3, "direct", True),
        (KAFKA | S3, "direct", True),
        (KAFKA | S3 | {"RUNWIRE_ARTIFACT_ROUTE": "kafka"}, "kafka", False),
        (KAFKA | {"RUNWIRE_ARTIFACT_ROUTE": "direct"}, "direct", False),
        (KAFKA | {"RUNWIRE_ARTIFACT_ROUTE": "reference"}, "kafka", False),
        (S3 | {"RUNWIRE_ARTIFACT_ROUTE": "reference"}, "direct", True),
    ],
)
def test_route_follows_the_settings(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str],
    *, route: str, has_store: bool,
) -> None:  # fmt: skip
    """S3 before Kafka before the data root, unless the route is set; the ref has the route."""
    (tmp_path / "a").write_bytes(b"x")
    with started(monkeypatch, environment) as run:
        ref = run.log_artifact(tmp_path / "a")
    (request,) = requests(root)
    assert request.route == route
    assert bool(request.store) == has_store
    is_reference = environment.get("RUNWIRE_ARTIFACT_ROUTE") == "reference"
    assert ref.route == ("reference" if is_reference else route)
    assert bool(request.files[0].source) == is_reference
    assert {event.route for event in artifact_events(root)} == {route}


def test_kafka_route_without_brokers_is_refused_at_init(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """init names the setting that is missing."""
    with pytest.raises(ConfigError, match="RUNWIRE_KAFKA_BOOTSTRAP_SERVERS"):
        started(monkeypatch, {"RUNWIRE_ARTIFACT_ROUTE": "kafka"})


def test_route_is_logged_once_per_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first artifact logs the route, the second does not."""
    caplog.set_level("INFO", "runwire")
    with started(monkeypatch, KAFKA) as run:
        run.log_artifact(b"1", "a")
        run.log_artifact(b"2", "a")
    told = [record.message for record in caplog.records if "artifacts go" in record.message]
    (sentence,) = told
    assert "through Kafka (127.0.0.1:1); files above 4 GiB are recorded by reference" in sentence


def test_files_too_large_for_kafka_become_references(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A large file stays in place, with one warning; large bytes are refused."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "large").write_bytes(b"x" * (MIB + 1))
    (tmp_path / "d" / "small").write_bytes(b"x" * MIB)
    with started(monkeypatch, KAFKA | {"RUNWIRE_ARTIFACT_KAFKA_BYTES_MAX": "1MiB"}) as run:
        run.log_artifact(tmp_path / "d")
        run.log_artifact(tmp_path / "d")
        with pytest.raises(ArtifactError, match="write it to a file"):
            run.log_artifact(b"x" * (MIB + 1), "bytes")
    first, _ = requests(root)
    assert {f.path: f.source for f in first.files} == {
        "large": str(tmp_path / "d" / "large"), "small": "",
    }  # fmt: skip
    assert contents(root, first) == {"small": b"x" * MIB}
    warnings = [r.message for r in caplog.records if "RUNWIRE_S3_ENDPOINT" in r.message]
    assert len(warnings) == 1


def test_file_list_longer_than_a_kafka_message_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the Kafka route the manifest is one message; a store takes any length."""
    artifact = Artifact("many")
    for number in range(60_000):
        artifact.add_bytes(b"", f"{number}")
    with started(monkeypatch, KAFKA) as run, pytest.raises(ArtifactError, match="one archive"):
        run.log_artifact(artifact)
    assert folders_in(root) == []


def test_outbox_quota_counts_all_processes_and_frees_delivered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting content of all processes counts; delivered content makes room again."""
    with started(monkeypatch, {"RUNWIRE_OUTBOX_BYTES": "1MiB"}) as run:
        first = run.log_artifact(bytes(MIB * 6 // 10), "a")
        with pytest.raises(ArtifactError, match="RUNWIRE_OUTBOX_BYTES"):
            run.log_artifact(bytes(MIB // 2), "b")
        run.log_artifact(bytes(MIB - MIB * 6 // 10), "c")
        other = runwire.init("p")
        with pytest.raises(ArtifactError, match="runwire status"):
            other.log_artifact(b"x", "d")
        (outbox_dir(root) / first.id).rename(root / "delivered")
        other.log_artifact(bytes(MIB * 6 // 10), "e")
        other.finish()
    assert [request.name for request in requests(root)] == ["c", "e"]


@pytest.mark.parametrize("prefix", ["failed-", ".done-"])
def test_outbox_quota_ignores_failed_and_delivered_requests(
    root: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Failed and deleted requests do not count towards the quota."""
    with started(monkeypatch, {"RUNWIRE_OUTBOX_BYTES": "1MiB"}) as run:
        first = run.log_artifact(bytes(MIB), "a")
        folder = outbox_dir(root) / first.id
        folder.rename(folder.with_name(prefix + folder.name))
        assert run.log_artifact(bytes(MIB), "b").size == MIB


def test_interrupted_capture_leaves_nothing_in_the_outbox(
    root: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a folder passes through, and the partial artifact is deleted."""
    (tmp_path / "d").mkdir()
    for name in "abc":
        (tmp_path / "d" / name).write_bytes(b"x")
    take, taken = Capture.take, []

    def interrupted(self: Capture, entry: object, index: int) -> object:
        taken.append(index)
        if index == 2:
            raise KeyboardInterrupt
        return take(self, entry, index)  # type: ignore[arg-type]

    monkeypatch.setattr(Capture, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.log_artifact(tmp_path / "d")
    assert taken == [0, 1, 2]
    assert folders_in(root) == []


def test_capture_holds_its_lock_until_the_call_ends(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a capture its folder is locked and records its size; afterwards it is free."""
    seen = []
    take = Capture.take

    def observed(self: Capture, entry: object, index: int) -> object:
        (folder,) = folders_in(root)
        seen.append((is_locked(folder), (folder / CAPTURE_LOCK).read_text()))
        return take(self, entry, index)  # type: ignore[arg-type]

    monkeypatch.setattr(Capture, "take", observed)
    run.log_artifact(b"12345", "a")
    assert seen == [(True, "5")]
    assert not is_locked(folders_in(root)[0])


def is_locked(folder: Path) -> bool:
    with (folder / CAPTURE_LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_threads_log_one_changing_file_consistently(
    root: Path, run: Run, tmp_path: Path, seed: int
) -> None:
    """Eight threads, one file that is rewritten in between: every artifact is one state of it."""
    path, faults = tmp_path / "shared", []
    path.write_bytes(b"0" * 4096)

    def log(number: int) -> None:
        chance = random.Random(seed + number)
        try:
            for turn in range(12):
                if chance.random() < 0.3:
                    fresh = tmp_path / f"{number}-{turn}"
                    fresh.write_bytes(b"%d" % number * 4096)
                    fresh.replace(path)
                run.log_artifact(path, f"t{number}")
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=log, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    found = requests(root)
    assert len(found) == 96
    assert all(len(set(contents(root, request)["shared"])) == 1 for request in found)
    assert {event.artifact for event in artifact_events(root)} == {r.artifact for r in found}


def _log_in_child(run: Run, number: int) -> None:
    run.log_artifact(b"from %d" % number, f"child-{number}")
    os._exit(0)


@pytest.mark.process
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_log_artifacts_under_their_own_writer(root: Path, method: str) -> None:
    """DataLoader workers: the request and its event carry the child's writer, the run is one."""
    run = runwire.init("p", run_id="shared")
    run.log_artifact(b"from parent", "parent")
    context = multiprocessing.get_context(method)
    children = [context.Process(target=_log_in_child, args=(run, n)) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    if method == "spawn":
        resource_tracker._resource_tracker._stop()  # multiprocessing keeps it for the next child  # noqa: SLF001 - no public call
    run.log_artifact(b"from parent", "parent")
    run.finish()
    found = requests(root)
    assert sorted(request.name for request in found) == ["child-0", "child-1", "parent", "parent"]
    assert {request.run_id for request in found} == {"shared"}
    assert len({request.writer for request in found}) == 3
    said = {event.artifact: event.writer for event in artifact_events(root)}
    assert said == {request.artifact: request.writer for request in found}


def test_child_forked_during_a_capture_can_log(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child logs while another thread captures, and that capture completes."""
    inside, go_on = threading.Event(), threading.Event()
    take = Capture.take

    def slow(self: Capture, entry: object, index: int) -> object:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(60)
        return take(self, entry, index)  # type: ignore[arg-type]

    monkeypatch.setattr(Capture, "take", slow)
    thread = threading.Thread(target=lambda: run.log_artifact(b"parent", "parent"))
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run.log_artifact(b"child", "child")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    thread.join()
    assert sorted(request.name for request in requests(root)) == ["child", "parent"]


@pytest.mark.parametrize("policy", ["ignore", "raise"])
def test_fork_policy_holds_for_artifacts(
    root: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """fork_policy holds for artifacts as for metrics."""
    monkeypatch.setenv("RUNWIRE_FORK_POLICY", policy)
    with runwire.init("p") as run:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                expected = "disabled" if policy == "ignore" else "refused"
                code = int(run.log_artifact(b"x", "a").route != expected)
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    assert folders_in(root) == []
    assert events(root)
