"""Foreign checkpoints: captured, noted, and loaded while their files are unchanged."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import runwire
from runwire.run import Run
from runwire_schemas.events import CheckpointEvent
from support.artifacts import artifact_events, contents, events, requests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "theirs"
    (made / "sub").mkdir(parents=True)
    (made / ".metadata").write_bytes(b"index")
    (made / "sub" / "manifest.json").write_bytes(b"{}")
    (made / "__0_0.distcp").write_bytes(b"shard")
    return made


def test_log_checkpoint_captures_a_folder_and_records_it(
    root: Path, run: Run, folder: Path
) -> None:
    """Request and record have the content, step, metrics and best mark."""
    ref = run.log_checkpoint(folder, 7, kind="dcp", metrics={"loss": 0.5}, is_best=True)
    (request,) = requests(root)
    assert contents(root, request) == {
        ".metadata": b"index",
        "__0_0.distcp": b"shard",
        "sub/manifest.json": b"{}",
    }
    assert (request.name, request.type, request.aliases) == (
        "checkpoint-r",
        "checkpoint",
        ("step-7", "best"),
    )
    facts = request.checkpoint
    assert (facts.step, facts.kind, facts.world_size, facts.is_best) == (7, "dcp", 1, True)
    run.finish()
    (said,) = [e for e in events(root) if isinstance(e, CheckpointEvent)]
    assert (said.artifact, said.step, said.metrics) == (ref.id, 7, {"loss": 0.5})
    assert (said.bytes, said.uri) == (12, folder.as_uri())
    assert not said.sha256  # nobody has computed one yet
    assert [e.artifact for e in artifact_events(root)] == [ref.id]


def test_load_checkpoint_returns_the_original_path(run: Run, folder: Path) -> None:
    """An unchanged folder or file is loaded from where it was logged."""
    run.log_checkpoint(folder, 7, kind="dcp")
    found = run.load_checkpoint("latest")
    assert (found.step, found.kind, found.path, dict(found.state)) == (7, "dcp", folder, {})
    run.log_checkpoint(folder / "__0_0.distcp", 8)
    assert run.load_checkpoint(8).path == folder / "__0_0.distcp"


def test_rewritten_file_is_not_loaded_as_the_old_checkpoint(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Overwriting "last.ckpt" must not turn an old checkpoint into a new one."""
    run.log_checkpoint(folder / ".metadata", 1)
    file = folder / "__0_0.distcp"
    run.log_checkpoint(file, 2)
    file.write_bytes(b"SHARD")
    os.utime(file, ns=(0, 0))
    assert run.load_checkpoint("latest").step == 1
    assert "was written again after it was logged" in caplog.text
    with pytest.raises(runwire.CheckpointError, match=r"written again .* the store has no copy"):
        run.load_checkpoint(2)


def test_retention_never_deletes_foreign_files(run: Run, folder: Path) -> None:
    """Expired checkpoints lose their note; the files stay."""
    for step in range(4):
        run.log_checkpoint(folder, step, retention=runwire.Retention(keep_last=1))
    assert run.load_checkpoint("latest").step == 3
    with pytest.raises(runwire.CheckpointError, match="complete ones: steps 3"):
        run.load_checkpoint(0)
    assert len(list(folder.rglob("*"))) == 4


def test_log_checkpoint_refuses_invalid_arguments(run: Run, folder: Path, tmp_path: Path) -> None:
    """A missing path, a bad step or kind is refused, and nothing is noted."""
    for path, step, how, words in (
        (tmp_path / "none", 1, {}, "does not exist"),
        (folder, -1, {}, "the step of a checkpoint is at least 0"),
        (folder, "x", {}, "step must be an integer"),
        (folder, 1, {"kind": "zip"}, "one of full, sharded, dcp"),
    ):
        with pytest.raises(runwire.CheckpointError, match=words):
            run.log_checkpoint(path, step, **how)
    assert run.load_checkpoint() is None


def test_folder_with_a_link_out_of_it_is_refused(root: Path, run: Run, folder: Path) -> None:
    """Neither request nor note is left behind."""
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(runwire.ArtifactError, match="leads out of the folder"):
        run.log_checkpoint(folder, 1)
    assert requests(root) == []
    assert run.load_checkpoint() is None


def test_invalid_metric_does_not_prevent_the_checkpoint(
    root: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The invalid metric is reported and left out."""
    with runwire.init("p", run_id="r") as lenient:
        lenient.log_checkpoint(folder, 1, metrics={"loss": 0.5, "words": [1, 2]})
        assert lenient.load_checkpoint().metrics == {"loss": 0.5}
    assert "metric of a checkpoint failed: " in caplog.text


def test_checkpoint_calls_never_raise_unless_strict(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed log and a failed save are counted, and return their usual types."""
    with runwire.init("p", run_id="r") as lenient:
        assert lenient.log_checkpoint(tmp_path / "none", 1).route == "refused"
        assert not lenient.save_checkpoint(-1).wait()
    assert lenient.guard.counts == {"log_checkpoint": 1, "save_checkpoint": 1}
    assert "does not exist: log a checkpoint after it was written" in caplog.text


def test_states_need_torch_and_files_do_not(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torch, saving and restoring states raise; logging files works."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(runwire.CheckpointError, match="needs torch, which is not installed"):
        run.save_checkpoint(1, extra={"a": 1})
    run.log_checkpoint(folder / ".metadata", 2)
    assert run.load_checkpoint().step == 2
    with pytest.raises(runwire.CheckpointError, match="needs torch"):
        run.load_checkpoint(2, model=object())


def test_module_functions_act_on_the_current_run(run: Run, folder: Path) -> None:
    """runwire.log_checkpoint and load_checkpoint call the run that init returned."""
    runwire.log_checkpoint(folder, 5, kind="dcp")
    assert runwire.load_checkpoint("latest").step == 5
    shutil.rmtree(folder)
    with pytest.raises(runwire.CheckpointError, match="no checkpoint 'latest' can be loaded"):
        runwire.load_checkpoint("latest")


def test_retention_rules_come_from_the_settings(root: Path, folder: Path) -> None:
    """Without rules in the call the request has those of the settings."""
    settings = runwire.Settings(
        checkpoint_keep_last=2,
        checkpoint_keep_best=3,
        checkpoint_metric="acc",
        checkpoint_mode="max",
    )
    with runwire.init("p", settings=settings) as run:
        run.log_checkpoint(folder, 1)
    (request,) = requests(root)
    assert request.checkpoint.retention == {
        "keep_last": 2,
        "keep_best": 3,
        "metric": "acc",
        "mode": "max",
        "keep_every": 0,
    }


@pytest.mark.parametrize("text", ["-1", "1.5", "many"])
def test_invalid_retention_counts_are_refused_at_init(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Only whole numbers from 0 on are accepted."""
    monkeypatch.setenv("RUNWIRE_CHECKPOINT_KEEP_LAST", text)
    with pytest.raises(runwire.ConfigError, match="a whole number, 0 or more"):
        runwire.init("p")
