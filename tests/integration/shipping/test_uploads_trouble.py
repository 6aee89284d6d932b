"""Uploads of a real agent to stores in trouble: the cause in `runwire status`, nothing lost."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pytest

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.catalog import Catalog
from runwire_store.layout import blob_key
from runwire_store.open import open_store
from runwire_store.store import ObjectStore
from support.agents import Agents
from support.uploads import leave, sha256
from support.watched import wait_until

END_S = 60
MEMORY_FOLDER = Path("/dev/shm")


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    made = Agents(tmp_path)
    yield made
    made.close()


def status(agents: Agents) -> str:
    """What `runwire status` says of the outbox."""
    words = [sys.executable, "-m", "runwire.cli", "status", "--dir", str(agents.root)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=END_S)
    return done.stdout


def cause(agents: Agents) -> str:
    return str(agents.state().uploads.get("cause", ""))


def waits(agents: Agents, kind: str, words: str) -> None:
    """The agent, its state and the command agree on why the artifact waits."""
    wait_until(lambda: cause(agents) == kind)
    told = status(agents)
    assert "1 waiting" in told
    assert words in told
    assert agents.state().uploads["sentence"] in told


def arrived(agents: Agents, store: ObjectStore, content: bytes) -> None:
    with closing(store):
        assert store.get(blob_key(sha256(content))) == content
        assert [v.ref for v in Catalog(store).artifacts("p")] == ["things:v0"]
    assert not list((agents.root / "outbox").iterdir())
    assert "waiting" not in status(agents)


def test_agent_reads_a_corrected_key_file_without_restart(
    agents: Agents, bucket: S3Settings, tmp_path: Path
) -> None:
    """`status` names the wrong key; the secret key file is read again, so it can be rotated."""
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    s3 = replace(bucket, secret_key="", secret_key_file=str(secret))
    leave(agents.root, b"content", store=s3.public())
    agent = agents.local_agent(s3=s3)
    waits(agents, "store_refused", "RUNWIRE_S3_SECRET_KEY")
    secret.write_text(bucket.secret_key)
    assert agent.wait(END_S) == 0, agents.log_text()
    assert "artifacts are uploaded again" in agents.log_text()
    assert "wrong" not in agents.log_text()
    arrived(agents, open_store(bucket, agents.root), b"content")


def test_status_names_the_command_for_a_missing_bucket(agents: Agents, bucket: S3Settings) -> None:
    """`status` names `runwire migrate`, and an agent that is stopped leaves the upload in the
    outbox."""
    s3 = replace(bucket, bucket=f"{bucket.bucket}-2")
    leave(agents.root, b"content", store=s3.public())
    agent = agents.local_agent(s3=s3)
    waits(agents, "store_refused", "`runwire migrate` makes it")
    agent.terminate()
    assert agent.wait(END_S) == 0
    assert len(list((agents.root / "outbox").iterdir())) == 1


class Door:
    """An address that forwards to the store once it is open."""

    def __init__(self, target: str) -> None:
        self._target = target.rsplit(":", 1)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def open(self) -> None:
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                here, _ = self._socket.accept()
            except OSError:
                return
            there = socket.create_connection((self._target[0], int(self._target[1])))
            for pair in ((here, there), (there, here)):
                threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with source, target:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            return


def test_upload_waits_while_the_store_is_unreachable(agents: Agents, bucket: S3Settings) -> None:
    """`status` names the address of the store, and the agent uploads once it answers."""
    with closing(Door(bucket.address)) as door:
        s3 = replace(bucket, endpoint=f"http://{door.address}")
        content = os.urandom(20 << 20)
        leave(agents.root, content, store=s3.public())
        agent = agents.local_agent(s3=s3)
        waits(agents, "store_away", f"http://{door.address} does not answer")
        door.open()
        assert agent.wait(END_S) == 0, agents.log_text()
    arrived(agents, open_store(bucket, agents.root), content)


@pytest.fixture
def _objects_elsewhere(tmp_path: Path) -> Iterator[None]:
    """The folder store on another file system, so that content takes room there."""
    if not MEMORY_FOLDER.is_dir():
        pytest.skip(f"there is no {MEMORY_FOLDER}")
    made = Path(mkdtemp(dir=MEMORY_FOLDER))
    (tmp_path / "objects").symlink_to(made)
    yield
    shutil.rmtree(made)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process: Linux")
@pytest.mark.usefixtures("_objects_elsewhere")
def test_upload_completes_once_a_full_store_has_room(agents: Agents) -> None:
    """A limit on file sizes stands for the full disk; it is lifted while the agent waits."""
    content = os.urandom(40 << 20)
    agent = agents.local_agent()
    limit = (20 << 20, resource.RLIM_INFINITY)
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, limit)
    leave(agents.root, content)
    waits(agents, "store_refused", "no room for")
    assert not [path for path in (agents.root / "objects").rglob("*") if path.is_file()]
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert agent.wait(END_S) == 0, agents.log_text()
    arrived(agents, open_store(None, agents.root), content)


def test_doctor_names_uploads_that_wait(agents: Agents, bucket: S3Settings) -> None:
    """`runwire doctor` lists the waiting upload with its cause."""
    s3 = replace(bucket, secret_key="wrong")
    leave(agents.root, b"content", store=s3.public())
    agents.local_agent(s3=s3)
    wait_until(lambda: cause(agents) == "store_refused")
    words = [sys.executable, "-m", "runwire.cli", "doctor", "--dir", str(agents.root), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=END_S)
    findings = json.loads(done.stdout)
    rows = findings["findings"] if isinstance(findings, dict) else findings
    (found,) = [row for row in rows if row["check"] == "outbox"]
    assert (found["level"], found["found"]) == ("warn", "1 artifacts, 0.0 MB")
    assert "RUNWIRE_S3_SECRET_KEY" in found["advice"]


def test_sync_uploads_artifacts_that_the_agent_could_not(
    agents: Agents, bucket: S3Settings
) -> None:
    """`runwire sync` with the right keys uploads them, without any brokers configured."""
    leave(agents.root, b"content", store=bucket.public())
    words = [sys.executable, "-m", "runwire.cli", "sync", "--dir", str(agents.root), "--json"]
    done = subprocess.run(
        words,
        env=os.environ | bucket.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=END_S,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["ok"], told["artifacts"], told["pending_artifacts"]) == (True, 1, 0)
    arrived(agents, open_store(bucket, agents.root), b"content")
