"""The data root of a run: resolved once, whatever happens to the working folder afterwards."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import runwire
from runwire.settings import Settings
from runwire_disk.spool.reader import list_folders


@pytest.fixture(params=["argument", "variable", "file"])
def relative(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The arguments of `init` for a relative data root "data" in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job").mkdir()
    if request.param == "variable":
        monkeypatch.setenv("RUNWIRE_DIR", "data")
    if request.param == "file":
        (tmp_path / "runwire.toml").write_text("dir = 'data'\n")
    return {"dir": "data"} if request.param == "argument" else {}


def _log(run: runwire.Run) -> None:
    run.log({"b": 1.0})


def test_chdir_after_init_moves_nothing(
    tmp_path: Path, relative: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spool, outbox, notes and the writers of workers stay in the folder that `init` saw."""
    run = runwire.init("p", run_id="r", **relative)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path / "job")
    run.log({"a": 1.0}, 3)
    run.log_artifact(b"content", "note")
    child = multiprocessing.get_context("fork").Process(target=_log, args=(run,))
    child.start()
    child.join()
    run.finish()
    assert list((tmp_path / "job").iterdir()) == []
    assert len(list_folders(tmp_path / "data")) == 2
    assert len(list((tmp_path / "data" / "outbox").iterdir())) == 1
    assert len(list((tmp_path / "data" / "runs").iterdir())) == 1


def test_settings_with_a_relative_folder_pickle_as_absolute(tmp_path: Path) -> None:
    """A spawned worker may have another working folder."""
    settings = Settings.resolve({"dir": "data", "checkpoint_dir": "kept"}, {}, tmp_path)
    copy = pickle.loads(pickle.dumps(settings))
    assert copy.root == Path.cwd() / "data"
    assert copy.checkpoint_dir == str(Path.cwd() / "kept")


@pytest.mark.process
def test_child_that_inherits_a_relative_variable_uses_the_same_folder(
    tmp_path: Path,
) -> None:
    """Also when the framework has changed the folder between `import` and `init` (Hydra does)."""
    script = (
        "import os, subprocess, sys, runwire\n"
        "os.makedirs('job'); os.chdir('job')\n"
        "runwire.init('p', run_id='parent').finish()\n"
        "code = \"import runwire; runwire.init('p', run_id='child').finish()\"\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    environ = os.environ | {"RUNWIRE_DIR": "data", "RUNWIRE_CAPTURE_GIT": "0"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environ, check=True)
    assert len(list_folders(tmp_path / "data")) == 2
    assert list((tmp_path / "job").iterdir()) == []


def test_change_of_the_variable_after_init_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run takes the new folder, the open one keeps its own."""
    monkeypatch.delenv("RUNWIRE_DIR", raising=False)
    run = runwire.init("p")
    first = Path(os.environ["XDG_STATE_HOME"]) / "runwire"
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "second"))
    run.log_artifact(b"content", "note")
    run.finish()
    assert len(list((first / "outbox").iterdir())) == 1
    assert not (tmp_path / "second").exists()
