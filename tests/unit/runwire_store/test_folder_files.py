"""Folders of the folder store."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from runwire_store.folder.files import make_folder


def test_make_folder_never_takes_a_folder_that_vanishes_for_a_file(tmp_path: Path) -> None:
    """While another thread makes and removes the folder, the only error is "not found"."""
    folder = tmp_path / "pruned"
    is_over = threading.Event()

    def flip() -> None:
        while not is_over.is_set():
            with suppress(FileExistsError):
                folder.mkdir()
            with suppress(FileNotFoundError):
                folder.rmdir()

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(3_000):
            with suppress(FileNotFoundError):
                make_folder(folder)
    finally:
        is_over.set()
        thread.join()


def test_make_folder_reports_a_file_in_the_way(tmp_path: Path) -> None:
    """A file of the folder's name is an error that says so."""
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        make_folder(tmp_path / "taken")
