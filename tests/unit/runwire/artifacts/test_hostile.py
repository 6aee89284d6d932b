"""Names and content that mean harm or are just unlucky: refused with a sentence, or harmless.

Each refusal leaves an empty outbox.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from runwire import Artifact, ArtifactError
from runwire.outbox.arguments import Entry
from runwire.outbox.capture import Capture
from runwire.outbox.outbox import Outbox
from runwire.run import Run
from runwire_disk.outbox.request import CONTENT_DIR
from support.artifacts import RecordingWriter, contents, folders_in, requests

LONE = "\udcff"
LONG = "n" * 1000


def refused(root: Path, call: Callable[[], object], match: str) -> None:
    """The call says so, and leaves nothing."""
    with pytest.raises(ArtifactError, match=match) as caught:
        call()
    assert len(str(caught.value)) < 1500
    assert folders_in(root) == []


@pytest.mark.parametrize(
    "name",
    ["../up", "a/../b", "/etc/passwd", "..", ".", "", "a//b", "a\\b", "a\nb", "a\0b", LONE, LONG,
     "a:b", " a", "v1:latest"],
)  # fmt: skip
def test_log_artifact_refuses_dangerous_names(root: Path, run: Run, name: str) -> None:
    """Of artifacts and of files in them: absolute, climbing, empty, overlong, unprintable."""
    refused(root, lambda: run.log_artifact(b"x", name), ".")
    if name not in ("a:b", " a", "v1:latest"):
        artifact = Artifact("a").add_bytes(b"x", name)
        refused(root, lambda: run.log_artifact(artifact), ".")


@pytest.mark.parametrize(
    "name",
    ["ünïcödé", "u\u0308nfc", "\u202egnp.txt", "🙂.png", "日本語", "-rf", "~", "$(reboot)", "a b",
     "con", "%2e%2e", "n" * 255, "'; DROP TABLE runs", "val/images"],
)  # fmt: skip
def test_log_artifact_keeps_unusual_names_exactly(root: Path, run: Run, name: str) -> None:
    """Unusual names are kept to the letter."""
    run.log_artifact(b"x", name)
    artifact = Artifact("a").add_bytes(b"y", name)
    run.log_artifact(artifact)
    first, second = requests(root)
    assert first.name == name
    assert contents(root, second) == {name: b"y"}


def test_composed_and_decomposed_names_are_two_files(root: Path, run: Run, tmp_path: Path) -> None:
    """NFC and NFD of one word are two files on disk and in the artifact."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "\u00fc").write_bytes(b"composed")
    (tmp_path / "d" / "u\u0308").write_bytes(b"decomposed")
    run.log_artifact(tmp_path / "d")
    assert contents(root, requests(root)[0]) == {"\u00fc": b"composed", "u\u0308": b"decomposed"}


def test_file_name_in_another_encoding_needs_a_new_name(
    root: Path, run: Run, tmp_path: Path
) -> None:
    """A name in another encoding cannot be in a manifest; the file itself can, renamed."""
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / f"caf{LONE}"
    path.write_bytes(b"x")
    refused(root, lambda: run.log_artifact(tmp_path / "d"), "part of a name")
    refused(root, lambda: run.log_artifact(path), "give another name")
    run.log_artifact(Artifact("a").add_file(path, "coffee"))
    assert contents(root, requests(root)[0]) == {"coffee": b"x"}


@pytest.mark.parametrize(
    ("artifact", "match"),
    [
        (lambda: Artifact("a"), "no file in it"),
        (lambda: Artifact("a").add_bytes(b"", "x").add_bytes(b"", "x"), "twice"),
        (lambda: Artifact("a").add_bytes(b"", "x/y").add_bytes(b"", "x"), "a file and a folder"),
        (lambda: Artifact("a", "two words").add_bytes(b"", "x"), "type="),
        (lambda: Artifact("a", aliases=["v3"]).add_bytes(b"", "x"), "reads as a version"),
        (lambda: Artifact("a", aliases=["a:b"]).add_bytes(b"", "x"), "alias="),
        (lambda: Artifact("a", aliases=["x" * 65]).add_bytes(b"", "x"), "alias="),
        (lambda: Artifact("a", metadata={"k": "v" * 70_000}).add_bytes(b"", "x"), "64 KiB"),
        (lambda: Artifact(7).add_bytes(b"", "x"), "is not a string"),  # type: ignore[arg-type]
    ],
)
def test_log_artifact_refuses_invalid_artifacts(
    root: Path, run: Run, artifact: Callable[[], Artifact], match: str
) -> None:
    """No content, colliding paths and bad words are refused, and nothing is kept."""
    refused(root, lambda: run.log_artifact(artifact()), match)


def test_log_artifact_refuses_invalid_arguments(root: Path, run: Run, tmp_path: Path) -> None:
    """A wrong path, name or policy is refused with a sentence, and nothing is kept."""
    (tmp_path / "a").touch()
    refused(root, lambda: run.log_artifact(b"x"), "give name=")
    refused(root, lambda: run.log_artifact(3), "takes a path, bytes or an Artifact")  # type: ignore[arg-type]
    refused(root, lambda: run.log_artifact(tmp_path / "a", policy="move"), "policy='move'")
    refused(root, lambda: run.log_artifact("/"), ".")
    refused(root, lambda: run.log_artifact("a\0b"), "control characters")
    refused(root, lambda: run.log_artifact("a\0b", "n"), "is not a path")
    refused(root, lambda: run.log_artifact("x/" * 5000, "n"), "is not a path: File name too long")
    far = "s3://bucket/key"
    refused(root, lambda: run.log_artifact(far, policy="reference"), "not on this machine")


def test_links_within_a_folder_yield_their_target(root: Path, run: Run, tmp_path: Path) -> None:
    """To a file, to a folder, over two corners: each name has the content."""
    folder = tmp_path / "d"
    (folder / "step-1").mkdir(parents=True)
    (folder / "step-1" / "w").write_bytes(b"1")
    (folder / "latest").symlink_to("step-1")
    (folder / "w").symlink_to("latest/w")
    run.log_artifact(folder)
    assert contents(root, requests(root)[0]) == {"step-1/w": b"1", "latest/w": b"1", "w": b"1"}


@pytest.mark.parametrize(
    "target",
    ["../secret", "/etc/passwd", "/dev/zero", "..", "../d-beside", ".", "loop", "missing"],
)
def test_links_out_of_a_folder_are_refused(
    root: Path, run: Run, tmp_path: Path, target: str
) -> None:
    """Out of the folder, in a circle or to nothing: the artifact would hold other content."""
    match = {".": "contains it", "loop": "leads nowhere", "missing": "leads nowhere"}
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "d-beside").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "loop").symlink_to(target)
    expected = match.get(target, "leads out of the folder")
    refused(root, lambda: run.log_artifact(tmp_path / "d"), expected)


def test_links_between_folders_are_refused(root: Path, run: Run, tmp_path: Path) -> None:
    """Folders that all link to each other have factorially many paths."""
    for name in "abcdefgh":
        (tmp_path / "d" / name).mkdir(parents=True)
        for other in "abcdefgh":
            if other != name:
                (tmp_path / "d" / name / f"to-{other}").symlink_to(f"../{other}")
    refused(root, lambda: run.log_artifact(tmp_path / "d"), "would never end")


def test_link_named_by_the_user_is_followed(root: Path, run: Run, tmp_path: Path) -> None:
    """Asking for it by name is permission; the folder itself may be a link, too."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").symlink_to("real/f")
    run.log_artifact(tmp_path / "link")
    run.log_artifact(tmp_path / "file")
    first, second = requests(root)
    assert (first.name, contents(root, first)) == ("link", {"f": b"1"})
    assert (second.name, contents(root, second)) == ("file", {"file": b"1"})


def test_pipes_and_devices_are_refused(root: Path, run: Run, tmp_path: Path) -> None:
    """Pipes never block the call, devices are not read to their end."""
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "pipe")
    refused(root, lambda: run.log_artifact(tmp_path / "d"), "is a pipe")
    refused(root, lambda: run.log_artifact("/dev/zero", "zeros"), "is a device")
    (tmp_path / "s").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s" / "x"))
        refused(root, lambda: run.log_artifact(tmp_path / "s"), "cannot be read|is a socket")


def test_unreadable_file_is_named_in_the_error(tmp_path: Path) -> None:
    """The error for another user's file has its path and what to do."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        secret, folder = Path(place) / "secret", Path(place) / "folder"
        secret.write_bytes(b"x")
        secret.chmod(0)
        if os.geteuid() != 0:
            _refuses(secret, folder)
            return
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setresuid(65534, 65534, 65534)
                _refuses(secret, folder)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0


def _refuses(secret: Path, folder: Path) -> None:
    (folder / CONTENT_DIR).mkdir(parents=True)
    with pytest.raises(ArtifactError, match="secret' cannot be read: Permission denied; make it"):
        Capture(folder, lambda: 2**30).take(Entry(path="x", source=secret), 0)


class Meddler:
    """Does something to a file while it is copied, the first `times` times."""

    def __init__(self, patch: pytest.MonkeyPatch, act: Callable[[int], None], times: int) -> None:
        self.calls, self._act, self._times = 0, act, times
        self._read = os.read
        patch.setattr(os, "read", self)
        # Neither a clone, which is of one state by itself, nor a copy by the kernel.
        patch.setattr(fcntl, "ioctl", unsupported)
        patch.setattr(os, "copy_file_range", unsupported, raising=False)

    def __call__(self, source: int, size: int) -> bytes:
        data = self._read(source, size)
        if data:  # of files as small as these the end of one copy
            if self.calls < self._times:
                self._act(self.calls)
            self.calls += 1
        return data


def unsupported(*_: object, **__: object) -> int:
    raise OSError(errno.EOPNOTSUPP, "not supported")


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def rewrite(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        file.write(b"%d" % number)
    os.utime(path, ns=(number, number))  # two writes may be within one tick of the clock


def test_file_rewritten_during_the_copy_is_kept_as_one_state(
    root: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept content is one state of the file, never parts of two."""
    path = tmp_path / "table"
    path.write_bytes(b"0" * 10)
    Meddler(monkeypatch, lambda n: rewrite(path, n + 5), times=2)
    run.log_artifact(path)
    assert contents(root, requests(root)[0]) == {"table": b"6" + b"0" * 9}


def test_file_that_is_always_rewritten_is_refused(
    root: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three copies that changed meanwhile the call is refused, and nothing is kept."""
    path = tmp_path / "table"
    path.write_bytes(b"0")
    Meddler(monkeypatch, lambda n: rewrite(path, n % 10), times=100)
    refused(root, lambda: run.log_artifact(path), "was changed while it was copied")


def test_growing_file_is_kept_as_it_was_at_the_call(
    root: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One copy is enough, and it never runs after the writer of a log: training waits for it."""
    path = tmp_path / "log"
    path.write_bytes(b"0" * 10)
    meddler = Meddler(monkeypatch, lambda _: append(path, b"x"), times=100)
    run.log_artifact(path)
    assert contents(root, requests(root)[0]) == {"log": b"0" * 10}
    assert meddler.calls == 1


def test_file_deleted_during_the_call_is_refused_or_kept_whole(
    root: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted before it is opened it is refused; during the copy the opened file is kept."""
    folder = tmp_path / "d"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(name.encode())
    Meddler(monkeypatch, lambda _: (folder / "c").unlink(), times=1)
    refused(root, lambda: run.log_artifact(folder), "does not exist")
    path = tmp_path / "gone"
    path.write_bytes(b"x")
    Meddler(monkeypatch, lambda _: path.unlink(), times=1)
    run.log_artifact(path)
    assert contents(root, requests(root)[0]) == {"gone": b"x"}


def test_file_replaced_by_a_link_after_listing_is_refused(
    root: Path, run: Run, tmp_path: Path, seed: int
) -> None:
    """Between listing a folder and reading it, a name may become a link out of it."""
    folder = tmp_path / "d"
    folder.mkdir()
    names = [f"{n:02d}" for n in range(20)]
    for name in names:
        (folder / name).write_bytes(b"x")
    artifact = Artifact("a").add_dir(folder)
    victim = folder / random.Random(seed).choice(names)
    entries = list(artifact.entries())
    victim.unlink()
    victim.symlink_to("/etc/passwd")
    outbox = Outbox(RecordingWriter())
    refused(root, lambda: outbox.submit("a", "file", entries), "became a link")


def test_references_to_folders_pipes_and_devices_are_refused(
    root: Path, run: Run, tmp_path: Path
) -> None:
    """The agent would wait for a pipe's writer, and read a device for ever."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"x")
    os.mkfifo(folder / "pipe")
    for path in (folder, folder / "pipe", "/dev/zero"):
        refused(
            root, lambda path=path: run.log_artifact(path, "n", policy="reference"), "is not a file"
        )
        artifact = Artifact("n").add_reference(path)
        refused(root, lambda artifact=artifact: run.log_artifact(artifact), "is not a file")
    missing = Artifact("n").add_reference(tmp_path / "missing")
    refused(root, lambda: run.log_artifact(missing), "No such file")
