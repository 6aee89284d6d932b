"""Content by reference that is no longer a file: reported, and never waited for."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from runwire.outbox.ref import ArtifactRef
from runwire.settings import Settings
from runwire_disk.outbox.hashing import ContentGoneError, hash_file
from support.uploads import UploadRig, leave


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_reference_that_became_a_folder_or_pipe_fails_its_artifact(
    tmp_path: Path, kind: str
) -> None:
    """A pipe has no writer, /dev/zero has no end: the one thread of uploads would be lost."""
    rig, strange = UploadRig(tmp_path / "data"), tmp_path / "strange"
    if kind == "pipe":
        os.mkfifo(strange)
    elif kind == "folder":
        strange.mkdir()
    else:
        strange = Path("/dev/zero")
    request = leave(rig.root)
    files = tuple(replace(file, source=str(strange)) for file in request.files)
    replace(request, files=files).commit(rig.root / "outbox" / request.artifact)
    other = leave(rig.root, b"other")
    thread = threading.Thread(target=rig.work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert [each.event for each in rig.told] == ["failed", "complete"]
    assert "only files have content" in str(rig.told[0].reason)
    assert rig.manifest(other) is not None


def test_hashing_a_pipe_raises_content_gone(tmp_path: Path) -> None:
    """A pipe in place of a file raises at once instead of blocking."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ContentGoneError):
        hash_file(tmp_path / "pipe", lambda _: None)


def test_wait_returns_false_once_an_artifact_has_failed(tmp_path: Path) -> None:
    """Without a timeout too: it never comes."""
    rig = UploadRig(tmp_path)
    request = leave(rig.root, b"content")
    (rig.root / "outbox" / request.artifact / "content" / "0").unlink()
    ref = ArtifactRef(
        id=request.artifact,
        name=request.name,
        type=request.type,
        route=request.route,
        size=request.size,
        key=request.key,
        settings=Settings(dir=str(tmp_path)),
    )
    assert ref.wait(0) is False
    rig.work()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(ref.wait()), daemon=True)
    thread.start()
    thread.join(60)
    assert found == [False]
