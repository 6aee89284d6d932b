"""Downloads: whole files under their own names inside the folder, whatever the store holds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_store.download import DigestMismatch, DownloadError, download, verify
from runwire_store.layout import blob_key
from runwire_store.manifest import FileEntry, Manifest, ManifestError, check_files
from runwire_store.memory import MemoryObjectStore
from runwire_store.store import NotFound, StoreAway
from support.stored import manifest, put_artifact, put_blobs

FILES = {"a.bin": b"one" * 1000, "sub/deep/b.bin": b"two", "empty": b"", "copy.bin": b"two"}


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_download_writes_all_files_with_their_content(tmp_path: Path) -> None:
    """With folders, empty files and two of the same content; progress adds up to the size."""
    store = MemoryObjectStore()
    made = put_artifact(store, 1, FILES)
    moved: list[int] = []
    paths = download(store, made, tmp_path / "new" / "out", progress=moved.append)
    assert content(tmp_path / "new" / "out") == FILES
    assert [path.name for path in paths] == ["a.bin", "b.bin", "empty", "copy.bin"]
    assert sum(moved) == made.size
    assert verify(store, made) == []


def test_interrupted_download_is_resumed_by_the_next_call(tmp_path: Path) -> None:
    """What is there with the right content is not fetched again; a half file is finished."""
    store = MemoryObjectStore()
    made = put_artifact(store, 1, FILES)
    fetched: list[str] = []

    def away_after_one(verb: str, key: str) -> None:
        if verb == "get_file":
            if fetched:
                raise StoreAway("the store went away")
            fetched.append(key)

    store.trouble = away_after_one
    with pytest.raises(StoreAway):
        download(store, made, tmp_path)
    assert content(tmp_path) == {"a.bin": FILES["a.bin"]}
    again: list[str] = []
    store.trouble = lambda verb, key: again.append(key) if verb == "get_file" else None
    download(store, made, tmp_path)
    assert content(tmp_path) == FILES
    assert blob_key(made.files[0].sha256) not in again


def test_part_file_of_other_content_is_downloaded_again(tmp_path: Path) -> None:
    """A part file that does not fit costs one more transfer, not the download."""
    store = MemoryObjectStore()
    made = put_artifact(store, 1, {"a.bin": b"right content"})
    parts = tmp_path / f".runwire-{made.artifact}"
    parts.mkdir()
    (parts / f"{made.files[0].sha256}.part").write_bytes(b"wrong")
    download(store, made, tmp_path)
    assert content(tmp_path) == {"a.bin": b"right content"}


@pytest.mark.parametrize("damaged", [b"ONE", b"on", b"ones"])
def test_download_refuses_a_damaged_blob_and_leaves_no_file(tmp_path: Path, damaged: bytes) -> None:
    """A blob with another digest raises DigestMismatch and never gets the file's name."""
    store = MemoryObjectStore()
    made = put_artifact(store, 1, {"a.bin": b"one", "b.bin": b"two"})
    store.put(blob_key(made.files[0].sha256), damaged)
    with pytest.raises(DigestMismatch, match=r"a\.bin") as caught:
        download(store, made, tmp_path)
    assert made.files[0].sha256 in str(caught.value)
    assert content(tmp_path) == {}
    (problem,) = verify(store, made)
    assert (problem.path, problem.sha256) == ("a.bin", made.files[0].sha256)


def test_download_and_verify_report_a_missing_blob(tmp_path: Path) -> None:
    """A deleted blob raises NotFound in download and is a problem for verify."""
    store = MemoryObjectStore()
    made = put_artifact(store, 1, {"a.bin": b"one"})
    store.delete([blob_key(made.files[0].sha256)])
    with pytest.raises(NotFound, match="log the file again"):
        download(store, made, tmp_path)
    assert [problem.path for problem in verify(store, made)] == ["a.bin"]


def test_download_replaces_a_file_in_the_way_but_no_folder(tmp_path: Path) -> None:
    """A file of another content is replaced; a folder of that name raises DownloadError."""
    store = MemoryObjectStore()
    made = put_artifact(store, 1, {"a.bin": b"one"})
    (tmp_path / "a.bin").write_bytes(b"old")
    download(store, made, tmp_path)
    assert content(tmp_path) == {"a.bin": b"one"}
    (tmp_path / "x" / "a.bin").mkdir(parents=True)
    with pytest.raises(DownloadError, match="is a folder"):
        download(store, made, tmp_path / "x")


def test_download_writes_nothing_through_a_link(tmp_path: Path) -> None:
    """A link in the place of a file is replaced, one in the place of a folder is refused."""
    store = MemoryObjectStore()
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.mkdir()
    out.mkdir()
    (victim / "secret").write_bytes(b"secret")
    (out / "a.bin").symlink_to(victim / "secret")
    download(store, put_artifact(store, 1, {"a.bin": b"one"}), out)
    assert (out / "a.bin").read_bytes() == b"one"
    assert not (out / "a.bin").is_symlink()
    (out / "sub").symlink_to(victim)
    with pytest.raises(DownloadError, match="is a link"):
        download(store, put_artifact(store, 2, {"sub/new": b"two"}), out)
    linked = put_artifact(store, 3, {"b.bin": b"three"})
    (out / f".runwire-{linked.artifact}").symlink_to(victim)
    with pytest.raises(DownloadError, match="is a link"):
        download(store, linked, out)
    assert content(victim) == {"secret": b"secret"}


HOSTILE = [
    "../outside", "a/../../outside", "/etc/passwd", "//etc/passwd", "..", ".", "", "a//b", "a/./b",
    "a\\..\\b", "C:\\windows", "a\0b", "a\nb", "\udce9", "x" * 256, "/".join(["d" * 250] * 13),
    "a/",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_download_refuses_names_that_leave_the_folder(tmp_path: Path, path: str) -> None:
    """Even in a manifest that never passed `publish`."""
    store = MemoryObjectStore()
    made = manifest(1, {"a": b"x"})
    put_blobs(store, {"a": b"x"})
    hostile = replace(made, files=(replace(made.files[0], path=path),))
    for call in (
        lambda: download(store, hostile, tmp_path / "out"),
        lambda: verify(store, hostile),
    ):
        with pytest.raises(ManifestError):
            call()
    assert list(tmp_path.iterdir()) == []


NAMES = st.text(
    st.one_of(st.sampled_from("./\\~$*:%\0\n -"), st.characters(codec="utf-8")), max_size=30
)


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_any_name_stays_inside_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    """What is accepted lands below the folder under exactly that name, and nowhere else."""
    store = MemoryObjectStore()
    put_blobs(store, {"a": b"x"})
    entry = manifest(1, {"a": b"x"}).files[0]
    made = replace(manifest(1), files=tuple(replace(entry, path=name) for name in names))
    above = tmp_path_factory.mktemp("above")
    out = above / "out"
    try:
        check_files(made.files)
    except ManifestError:
        with pytest.raises(ManifestError):
            download(store, made, out)
        assert not out.exists()
        return
    paths = download(store, made, out)
    assert [str(path.relative_to(out)) for path in paths] == names
    assert set(content(above)) == {f"out/{name}" for name in names}


def by_reference(path: Path, data: bytes, uri: str = "") -> Manifest:
    made = manifest(1, {"a.bin": data})
    return replace(made, files=(replace(made.files[0], uri=uri or path.as_uri()),))


def test_download_copies_a_file_logged_by_reference(tmp_path: Path) -> None:
    """The file is copied from where it lies, when it is still what was logged."""
    source = tmp_path / "with space %20 é.bin"
    source.write_bytes(b"one")
    store = MemoryObjectStore()
    made = by_reference(source, b"one")
    assert verify(store, made) == []
    download(store, made, tmp_path / "out")
    assert content(tmp_path / "out") == {"a.bin": b"one"}
    source.write_bytes(b"ONE")
    with pytest.raises(DigestMismatch):
        download(store, made, tmp_path / "out2")
    source.write_bytes(b"longer")
    with pytest.raises(DigestMismatch, match="changed after it was logged"):
        download(store, made, tmp_path / "out2")
    source.unlink()
    with pytest.raises(DownloadError, match="mount that file system"):
        download(store, made, tmp_path / "out2")
    (problem,) = verify(store, made)
    assert "is a reference to" in problem.reason
    assert content(tmp_path / "out2") == {}


@pytest.mark.parametrize(
    "uri", ["http://host/x", "file://host/x", "s3://b/k", "x", "file:", "file:///a%00b", "file://["]
)
def test_download_follows_no_reference_but_local_files(tmp_path: Path, uri: str) -> None:
    """Only file:// references of this machine are read."""
    with pytest.raises(DownloadError):
        download(MemoryObjectStore(), by_reference(tmp_path, b"x", uri), tmp_path / "out")


def test_reference_to_a_device_or_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    """Neither blocks, nor fills the disk."""
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(DownloadError):
            download(MemoryObjectStore(), by_reference(path, b"x"), tmp_path / "out")


def test_entry_that_claims_to_be_empty_needs_the_empty_digest(tmp_path: Path) -> None:
    """Size 0 with another digest is damage, not an empty file."""
    entry = FileEntry(path="a", size=0, sha256="0" * 64)
    with pytest.raises(DigestMismatch):
        download(MemoryObjectStore(), replace(manifest(1), files=(entry,)), tmp_path)
