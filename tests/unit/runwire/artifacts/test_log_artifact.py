"""Content of `log_artifact`: captured at the call, unchanged by later writes."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

import runwire
from runwire import Artifact, ArtifactError
from runwire.outbox.arguments import Entry
from runwire.outbox.outbox import Outbox
from runwire.run import Run
from runwire_disk.outbox.request import content_path, outbox_dir
from support.artifacts import (
    RecordingWriter,
    artifact_events,
    contents,
    events,
    folders_in,
    requests,
)


def only_contents(root: Path) -> dict[str, bytes]:
    (request,) = requests(root)
    return contents(root, request)


def test_log_artifact_writes_request_and_event(root: Path, run: Run, tmp_path: Path) -> None:
    """The request has what an agent needs, the spool an event with the same facts."""
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    ref = run.log_artifact(
        path, type="model", aliases=["best", "best", "latest"], metadata={"acc": 0.5}
    )
    (request,) = requests(root)
    assert (ref.id, ref.name, ref.type, ref.route, ref.size) == (
        request.artifact, "model.pt", "model", "direct", 7,
    )  # fmt: skip
    assert (request.project, request.run_id, request.destination) == ("p", run.id, "local")
    assert (request.aliases, request.metadata) == (("best",), {"acc": 0.5})
    assert only_contents(root) == {"model.pt": b"weights"}
    (event,) = artifact_events(root)
    assert (event.artifact, event.event, event.name, event.type) == (
        ref.id, "logged", "model.pt", "model",
    )  # fmt: skip
    assert (event.files, event.bytes, event.aliases) == (1, 7, ["best"])
    assert json.loads(event.metadata or "") == {"acc": 0.5}
    assert event.at_ns == request.created_at_ns
    assert event.writer == request.writer


@pytest.mark.parametrize("policy", ["auto", "link"])
def test_replacing_a_file_leaves_the_captured_content(
    root: Path, run: Run, tmp_path: Path, policy: str
) -> None:
    """Renaming another file over it and deleting it leave the content, however it was captured."""
    path = tmp_path / "a"
    path.write_bytes(b"before")
    run.log_artifact(path, policy=policy)
    (tmp_path / "b").write_bytes(b"after!")
    (tmp_path / "b").replace(path)
    path.unlink()
    assert only_contents(root) == {"a": b"before"}


def test_writing_into_a_file_leaves_the_captured_content(
    root: Path, run: Run, tmp_path: Path
) -> None:
    """torch.save writes into the same inode: a clone or copy stays as it was."""
    path = tmp_path / "a"
    path.write_bytes(b"before")
    run.log_artifact(path)
    path.write_bytes(b"after!")
    assert only_contents(root) == {"a": b"before"}


def test_policy_link_shares_the_file_with_later_writes(
    root: Path, run: Run, tmp_path: Path
) -> None:
    """What "link" means, and why it is not the default: a write in place shows through."""
    path = tmp_path / "a"
    path.write_bytes(b"before")
    ref = run.log_artifact(path, policy="link")
    kept = content_path(outbox_dir(root) / ref.id, 0)
    assert kept.stat().st_ino == path.stat().st_ino
    path.write_bytes(b"after!")
    assert only_contents(root) == {"a": b"after!"}


def test_policy_reference_records_the_path_and_moves_nothing(
    root: Path, run: Run, tmp_path: Path
) -> None:
    """The request names the real file, also behind a link; the outbox holds no content."""
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to(path)
    ref = run.log_artifact(tmp_path / "link", policy="reference")
    (request,) = requests(root)
    assert ref.route == "reference"
    assert [(f.path, f.source, f.size) for f in request.files] == [("link", str(path), 100)]
    assert only_contents(root) == {}


def test_reference_route_ships_content_that_is_not_a_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUNWIRE_ARTIFACT_ROUTE=reference: bytes have no place to stay, so they are shipped."""
    monkeypatch.setenv("RUNWIRE_ARTIFACT_ROUTE", "reference")
    path = tmp_path / "a"
    path.write_bytes(b"file")
    with runwire.init("p") as run:
        refs = [run.log_artifact(path), run.log_artifact(b"bytes", "b")]
        refs.append(run.log_table([{"x": 1}], "t"))
    assert [ref.route for ref in refs] == ["reference", "direct", "direct"]
    kept = [contents(root, request) for request in requests(root)]
    assert kept == [{}, {"b": b"bytes"}, {"t.jsonl": b'{"x":1}\n'}]


def test_bytes_need_a_name_and_empty_content_is_kept(root: Path, run: Run, tmp_path: Path) -> None:
    """Bytes need a name; no byte at all is content too."""
    (tmp_path / "empty").touch()
    run.log_artifact(b"abc", "dir/config.json")
    run.log_artifact(b"", "nothing")
    run.log_artifact(tmp_path / "empty")
    assert [contents(root, request) for request in requests(root)] == [
        {"config.json": b"abc"}, {"nothing": b""}, {"empty": b""},
    ]  # fmt: skip


def test_proc_files_without_a_size_are_kept_whole(root: Path, run: Run) -> None:
    """The kernel's files say that they have 0 or 4,096 bytes."""
    run.log_artifact("/proc/self/limits", "limits")
    (request,) = requests(root)
    assert request.size > 100
    assert only_contents(root)["limits"].startswith(b"Limit")


def test_artifact_of_many_parts_is_one_request(root: Path, run: Run, tmp_path: Path) -> None:
    """Files, folders, bytes and references under one name; the call adds to what it says."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "x").write_bytes(b"1")
    (tmp_path / "d" / "sub" / "y").write_bytes(b"2")
    artifact = (
        Artifact("data", "dataset", metadata={"a": 1}, aliases="raw")
        .add_dir(tmp_path / "d")
        .add_dir(tmp_path / "d", "again")
        .add_file(tmp_path / "d" / "x", "z")
        .add_bytes(b"{}", "meta.json")
        .add_reference((tmp_path / "d" / "x").as_uri(), "far")
    )
    ref = run.log_artifact(artifact, aliases=["v-one"], metadata={"b": 2})
    (request,) = requests(root)
    assert only_contents(root) == {
        "x": b"1", "sub/y": b"2", "again/x": b"1", "again/sub/y": b"2", "z": b"1",
        "meta.json": b"{}",
    }  # fmt: skip
    assert [f.source for f in request.files if f.path == "far"] == [str(tmp_path / "d" / "x")]
    assert (ref.name, ref.type, request.aliases) == ("data", "dataset", ("raw", "v-one"))
    assert request.metadata == {"a": 1, "b": 2}


def test_outbox_is_readable_by_its_owner_only(root: Path, run: Run, tmp_path: Path) -> None:
    """Content may be secret: no other user can read it while it waits."""
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "a").chmod(0o644)
    ref = run.log_artifact(tmp_path / "a")
    folder = outbox_dir(root) / ref.id
    for path in (outbox_dir(root), folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_failed_log_artifact_is_counted_and_returns_a_ref(root: Path, lenient: Run) -> None:
    """Training continues: no exception, an object of the same type, nothing left behind."""
    ref = lenient.log_artifact("/no/such/file")
    assert (ref.route, ref.size) == ("refused", 0)
    assert ref.wait(0) is False
    assert lenient.guard.counts.pop("log_artifact") == 1
    assert folders_in(root) == []


def test_disabled_and_ended_runs_keep_nothing(root: Path, tmp_path: Path) -> None:
    """Mode "disabled" ignores the call, even for a missing file; after finish it is reported."""
    with runwire.init("p", mode="disabled") as run:
        assert run.log_artifact("/no/such/file", "n").route == "disabled"
        assert run.log_image(object(), "n").route == "disabled"
    assert not root.exists()
    with runwire.init("p") as run:
        pass
    assert run.log_artifact(b"", "late").route == "refused"
    assert run.guard.counts.pop("log_artifact") == 1
    assert folders_in(root) == []


def test_module_functions_act_on_the_current_run(root: Path, lenient: Run) -> None:
    """runwire.log_artifact and its siblings call the run that init returned."""
    runwire.log_artifact(b"1", "a", type="config")
    runwire.log_table([{"x": 1}], "t")
    assert [(r.name, r.type) for r in requests(root)] == [("a", "config"), ("t", "table")]


def test_secrets_of_the_settings_never_reach_a_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request names the store and where its keys are, not the keys."""
    monkeypatch.setenv("RUNWIRE_S3_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("RUNWIRE_S3_ACCESS_KEY", "somebody")
    monkeypatch.setenv("RUNWIRE_S3_SECRET_KEY", "do-not-write-me")
    with runwire.init("p") as run:
        ref = run.log_artifact(b"1", "a")
    assert requests(root)[0].store["endpoint"] == "http://127.0.0.1:1"
    assert "do-not-write-me" not in repr(ref)
    for folder, _, files in os.walk(root):
        for name in files:
            assert b"do-not-write-me" not in (Path(folder) / name).read_bytes()
    assert events(root)


@pytest.mark.parametrize("timeout", [float("nan"), "1", 10**9])
def test_wait_for_an_artifact_refuses_what_is_no_time(run: Run, timeout: Any) -> None:
    """It would wait for ever; a moment that has passed is no mistake."""
    ref = run.log_artifact(b"1", "a")
    with pytest.raises(ArtifactError, match="timeout"):
        ref.wait(timeout)
    assert not ref.wait(-0.5)


def test_staging_an_id_twice_is_refused(root: Path, run: Run) -> None:
    """The second use of an artifact id is refused, and the first content stays."""
    outbox, entry = Outbox(RecordingWriter()), Entry(path="x", source=b"1")
    with outbox.staging("0" * 32) as staged:
        outbox.stage(staged, "a", "file", [entry])
        outbox.commit(staged)
    with pytest.raises(ArtifactError), outbox.staging("0" * 32) as staged:
        outbox.stage(staged, "b", "file", [entry])
    assert [request.name for request in requests(root)] == ["a"]


def test_folder_around_the_data_root_is_kept_without_it(
    root: Path, run: Run, tmp_path: Path
) -> None:
    """A folder that contains runwire's own files is kept without them."""
    (tmp_path / "code.py").write_bytes(b"1")
    run.log_artifact(tmp_path, "everything")
    run.log_artifact(tmp_path, "everything")
    (tmp_path / "linked").symlink_to(root)
    run.log_artifact(tmp_path, "everything")
    assert [contents(root, r) for r in requests(root)] == [{"code.py": b"1"}] * 3


def test_data_root_itself_is_refused(run: Run, root: Path, tmp_path: Path) -> None:
    """Spool and outbox are never content; a user's folder below them is."""
    (tmp_path / "link").symlink_to(root)
    for content in (root, tmp_path / "link", Artifact("a").add_dir(root, "x")):
        with pytest.raises(ArtifactError, match="RUNWIRE_DIR"):
            run.log_artifact(content)
    assert folders_in(root) == []
    (root / "mine").mkdir()
    (root / "mine" / "a").write_bytes(b"1")
    run.log_artifact(root / "mine")
    assert contents(root, requests(root)[0]) == {"a": b"1"}


@pytest.mark.swallows
def test_call_whose_modules_cannot_be_loaded_does_not_raise(
    lenient: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without descriptors an import fails, also that of the result: it can be waited for anyway."""
    for name in ("runwire.artifacts.artifact", "runwire.outbox.ref"):
        monkeypatch.setitem(sys.modules, name, None)
    ref = lenient.log_artifact(b"x", "lost")
    assert (ref.route, ref.wait(), ref.size) == ("refused", False, 0)
    with pytest.raises(ArtifactError, match="nothing was kept"):
        ref.download()
    assert "log_artifact failed, 'lost' is lost" in caplog.text
