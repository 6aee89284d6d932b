"""Names and values that others wrote never move the cursor of who reads them."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys

import pytest

from runwire_store.folder.store import FolderStore
from runwire_store.layout import blob_key
from runwire_store.open import open_store
from support.stored import put_artifact, put_checkpoint

CLEAR = "\x1b[2J"
CSI = "\x9b2J"  # the same in one character, which names may hold
NAME = f"evil{CSI}"
FILES = {f"file{CSI}": b"content", "other": b"x"}


@pytest.fixture
def store(cli) -> FolderStore:
    """An artifact and a checkpoint of somebody who means harm."""
    made = open_store(None, cli.root)
    assert isinstance(made, FolderStore)
    put_artifact(
        made, 1, FILES, name=NAME, project="default", run_id=f"run{CLEAR}",
        metadata={f"key{CLEAR}": f"value{CLEAR}\nstored  elsewhere", "half": "\ud800"},
    )  # fmt: skip
    put_checkpoint(made, 2, 10, kind="sharded", world_size=2, metrics={f"loss{CLEAR}": 1.0})
    return made


def shown(cli, *words: str) -> str:
    """What reaches a terminal of stdout and stderr."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "runwire.cli", *words, "--dir", str(cli.root)]
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}
    subprocess.run(command, stdout=slave, stderr=slave, check=False, env=environment)
    os.close(slave)
    told = b""
    while True:
        try:
            piece = os.read(master, 1 << 16)
        except OSError:  # Linux says so at the end
            break
        if not piece:
            break
        told += piece
    os.close(master)
    return told.decode("utf-8")


@pytest.mark.parametrize(
    "words",
    [
        ["artifact", "ls"],
        ["artifact", "show", NAME],
        ["artifact", "verify", NAME],
        ["artifact", "get", NAME],
        ["artifact", "get", f"{NAME}:v9"],
        ["checkpoints", "r"],
        ["checkpoints", "r", "--verify"],
        ["checkpoints", f"nobody{CLEAR}"],
    ],
)
def test_control_characters_in_names_never_reach_the_terminal(cli, store, tmp_path, words) -> None:
    """Neither on stdout nor on stderr, in reports of damage too."""
    if "verify" in words:
        digest = hashlib.sha256(FILES[f"file{CSI}"]).hexdigest()
        store.put(blob_key(digest), b"damaged")
    output = ["-o", str(tmp_path / "out")] if "get" in words else []
    told = shown(cli, *words, *output)
    assert told
    assert "Traceback" not in told
    assert not any((ord(c) < 32 and c not in "\r\n") or 127 <= ord(c) < 160 for c in told), told


def test_values_are_escaped_and_stay_on_their_line(cli, store) -> None:
    """A value cannot fake a line of the page; scripts get the exact paths."""
    page = cli("artifact", "show", NAME).stdout
    assert "key\\x1b[2J = value\\x1b[2J\\nstored  elsewhere" in page
    assert "half = \\ud800" in page
    assert page.count("\nstored  ") == 1
    got = cli("artifact", "get", NAME, "-o", str(cli.root / "out")).stdout.splitlines()
    assert got == [str(cli.root / "out" / name) for name in FILES]
