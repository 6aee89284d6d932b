"""Requests of an outbox: looks, claims, and the leftovers that are deleted."""

import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from runwire_disk.outbox import requests as claims
from runwire_disk.outbox.request import outbox_dir
from runwire_disk.outbox.requests import OutboxRequests
from support.uploads import folder_of, leave

# Stages a request and gives it up once its input ends.
_CALLER = """
import sys
from pathlib import Path
from runwire.outbox.capture import Staged
from runwire_disk.outbox.request import UploadRequest
with Staged(Path(sys.argv[1])) as staged:
    staged.make(0)
    staged.stage(UploadRequest.read(Path(sys.argv[2])))
    print("staged", flush=True)
    sys.stdin.read()
"""


def requests(root: Path) -> OutboxRequests:
    return OutboxRequests(root, lambda _: True)


def test_look_returns_accepted_requests_oldest_first(tmp_path: Path) -> None:
    """An agent works on the requests of its destination in the order of their calls."""
    late = leave(tmp_path, created_at_ns=2)
    early = leave(tmp_path, created_at_ns=1)
    leave(tmp_path, name="other", created_at_ns=0)
    found = OutboxRequests(tmp_path, lambda request: request.name == "things").look()
    assert [request for _, request in found] == [early, late]
    assert requests(tmp_path / "nowhere").look() == []


def test_changed_request_is_read_again_at_the_next_look(tmp_path: Path) -> None:
    """A reroute rewrites request.json under a running agent."""
    listing = requests(tmp_path)
    request = leave(tmp_path)
    assert listing.look()[0][1].destination == "local"
    replace(request, destination="elsewhere").commit(folder_of(tmp_path, request))
    assert listing.look()[0][1].destination == "elsewhere"


def test_claim_is_refused_while_another_agent_holds_it(tmp_path: Path) -> None:
    """Released it may be claimed again; removed it is gone for every agent."""
    request = leave(tmp_path)
    first, second = requests(tmp_path), requests(tmp_path)
    claim = first.claim(folder_of(tmp_path, request))
    assert claim is not None
    assert second.claim(folder_of(tmp_path, request)) is None
    claim.release()
    again = second.claim(folder_of(tmp_path, request))
    assert again is not None
    again.remove()
    assert first.claim(folder_of(tmp_path, request)) is None
    assert list(outbox_dir(tmp_path).iterdir()) == []


def test_claim_is_refused_when_the_folder_was_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was opened before another agent removed the folder, and locked after that."""
    request = leave(tmp_path)
    folder = folder_of(tmp_path, request)
    done = requests(tmp_path).claim(folder)
    assert done is not None

    def lock(fd: int, how: int) -> None:
        done.remove()

    monkeypatch.setattr(fcntl, "flock", lock)
    assert requests(tmp_path).claim(folder) is None


@pytest.fixture
def _aged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "UNCOMMITTED_S", -1.0)


@pytest.mark.usefixtures("_aged")
def test_leftovers_of_interrupted_calls_are_deleted(tmp_path: Path) -> None:
    """Neither a call that died uncommitted nor an agent that died while deleting leaves any."""
    request = leave(tmp_path)
    folder = folder_of(tmp_path, request)
    (folder / "request.json").unlink()
    (outbox_dir(tmp_path) / ".done-1").mkdir()
    assert requests(tmp_path).look() == []
    assert list(outbox_dir(tmp_path).iterdir()) == []


@pytest.mark.usefixtures("_aged")
def test_folder_of_a_running_call_is_kept_however_long_it_takes(tmp_path: Path) -> None:
    """The call holds the lock of its capture until it has committed."""
    request = leave(tmp_path)
    folder = folder_of(tmp_path, request)
    (folder / "request.json").unlink()
    fd = os.open(folder / "capture.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        requests(tmp_path).look()
        assert folder.exists()
    finally:
        os.close(fd)


def test_uncommitted_folder_younger_than_600_s_is_kept(tmp_path: Path) -> None:
    """Its call may be just about to take the lock."""
    request = leave(tmp_path)
    (folder_of(tmp_path, request) / "request.json").unlink()
    requests(tmp_path).look()
    assert folder_of(tmp_path, request).exists()


@pytest.mark.parametrize("dies", [True, False])
def test_awaited_path_commits_the_request_of_a_gone_caller(tmp_path: Path, dies: bool) -> None:
    """Once the path exists the request of a dead caller is committed by the agent, never before;
    one that an exception keeps from it commits it on the way out."""
    made, other = tmp_path / "checkpoint", tmp_path / "other"
    request = replace(leave(other), awaits=str(made))
    request.commit(folder_of(other, request))
    folder = folder_of(tmp_path, request)
    with subprocess.Popen(
        [sys.executable, "-c", _CALLER, folder, folder_of(other, request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as caller:
        assert caller.stdin is not None
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"staged\n"
        assert requests(tmp_path).look() == []
        made.mkdir()
        assert requests(tmp_path).look() == []
        if dies:
            caller.kill()
            caller.wait()
            assert [request for _, request in requests(tmp_path).look()] == [request]
        caller.stdin.close()
    assert [request for _, request in requests(tmp_path).look()] == [request]
    assert folder.exists()


def test_a_request_of_a_newer_runwire_waits_for_a_newer_agent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown fields are ignored; a greater format is left where it is, and logged once."""
    request = leave(tmp_path)
    path = folder_of(tmp_path, request) / "request.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"hint": 1}))
    listing = requests(tmp_path)
    assert [found for _, found in listing.look()] == [request]
    path.write_text(json.dumps(fields | {"format": fields["format"] + 1}))
    os.utime(path, ns=(1, 1))
    assert listing.look() == listing.look() == []
    assert caplog.text.count("waits for an agent that can read it") == 1
    assert path.exists()


def test_failed_requests_are_bounded_by_number_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest failed requests stay, for a person to look at."""
    monkeypatch.setattr(claims, "FAILED_MAX", 2)
    listing = requests(tmp_path)
    for number in range(4):
        folder = folder_of(tmp_path, leave(tmp_path, name=f"n{number}"))
        claim = listing.claim(folder)
        assert claim is not None
        claim.fail(f"reason {number}")
    requests(tmp_path).look()
    kept = sorted((f / "reason.txt").read_text() for f in outbox_dir(tmp_path).iterdir())
    assert kept == ["reason 2\n", "reason 3\n"]
    monkeypatch.setattr(claims, "FAILED_BYTES_MAX", 0)
    requests(tmp_path).look()
    assert list(outbox_dir(tmp_path).iterdir()) == []


def test_look_at_many_requests_is_not_repeated_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is unreachable the agent asks several times a second, each time for all."""
    monkeypatch.setattr(claims, "MANY", 3)
    monkeypatch.setattr(claims, "LOOK_SHARE", 1e-9)
    monkeypatch.setattr(claims, "LOOK_REST_S_MAX", 0.3)
    clock = itertools.count()
    monkeypatch.setattr(
        claims, "time", SimpleNamespace(monotonic=lambda: next(clock) / 1000, time=time.time)
    )
    listing = requests(tmp_path)
    for number in range(1, 5):
        leave(tmp_path)
        assert len(listing.look()) == min(number, 3)
    for _ in range(300):
        next(clock)
    assert len(listing.look()) == 4
