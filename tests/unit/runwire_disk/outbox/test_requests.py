"""What is found in an outbox, and what is tidied away."""

import fcntl
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runwire.outbox.staged import Staged
from runwire_agent.upload.transport import Pace
from runwire_disk.outbox import requests as claims
from runwire_disk.outbox.request import outbox_dir
from runwire_disk.outbox.requests import Requests
from runwire_store.memory import MemoryObjectStore
from runwire_store.store import StoreAway
from support.uploads import UploadRig, folder_of, leave


def requests(root: Path) -> Requests:
    return Requests(root, lambda _: True)


def test_oldest_first_and_only_what_is_accepted(tmp_path: Path) -> None:
    late = leave(tmp_path, created_at_ns=2)
    early = leave(tmp_path, created_at_ns=1)
    leave(tmp_path, name="other", created_at_ns=0)
    found = Requests(tmp_path, lambda request: request.name == "things").look()
    assert [request for _, request in found] == [early, late]
    assert requests(tmp_path / "nowhere").look() == []


def test_a_request_that_is_changed_is_read_again(tmp_path: Path) -> None:
    looking = requests(tmp_path)
    request = leave(tmp_path)
    assert looking.look()[0][1].destination == "local"
    replace(request, destination="elsewhere").commit(folder_of(tmp_path, request))
    assert looking.look()[0][1].destination == "elsewhere"


def test_one_claim_at_a_time(tmp_path: Path) -> None:
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


def test_a_removed_folder_s_lock_is_that_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the other agent removed the folder, locked after it."""
    request = leave(tmp_path)
    folder = folder_of(tmp_path, request)
    done = requests(tmp_path).claim(folder)
    assert done is not None

    def lock(fd: int, how: int) -> None:
        done.remove()

    monkeypatch.setattr(claims.fcntl, "flock", lock)
    assert requests(tmp_path).claim(folder) is None


@pytest.fixture
def _aged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "UNCOMMITTED_S", -1.0)


@pytest.mark.usefixtures("_aged")
def test_interrupted_calls_are_tidied_away(tmp_path: Path) -> None:
    request = leave(tmp_path)
    folder = folder_of(tmp_path, request)
    (folder / "request.json").unlink()
    (outbox_dir(tmp_path) / ".done-1").mkdir()
    assert requests(tmp_path).look() == []
    assert list(outbox_dir(tmp_path).iterdir()) == []


@pytest.mark.usefixtures("_aged")
def test_a_call_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    """It holds the lock of its capture, however long it takes."""
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


def test_a_fresh_one_is_left_alone(tmp_path: Path) -> None:
    request = leave(tmp_path)
    (folder_of(tmp_path, request) / "request.json").unlink()
    requests(tmp_path).look()
    assert folder_of(tmp_path, request).exists()


@pytest.mark.parametrize("dies", [True, False])
def test_a_dead_caller_s_promise_is_kept(tmp_path: Path, dies: bool) -> None:
    """What a request awaits is there and its caller gone: the agent commits it. Never before."""
    made = tmp_path / "checkpoint"
    with Staged(outbox_dir(tmp_path) / ("a" * 32), 0) as staged:
        request = replace(leave(tmp_path / "other"), artifact="a" * 32, awaits=str(made))
        staged.stage(request)
        assert requests(tmp_path).look() == []
        made.mkdir()
        assert requests(tmp_path).look() == []
        if dies:
            staged._lock.close()
            ((_, found),) = requests(tmp_path).look()
            assert found == request
    assert len(requests(tmp_path).look()) == dies
    assert staged.folder.exists() == dies


def test_a_request_of_a_newer_runwire_waits_for_a_newer_agent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fields that may be overlooked are; a greater format is left where it is, told once."""
    request = leave(tmp_path)
    path = folder_of(tmp_path, request) / "request.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"hint": 1}))
    looking = requests(tmp_path)
    assert [found for _, found in looking.look()] == [request]
    path.write_text(json.dumps(fields | {"format": fields["format"] + 1}))
    os.utime(path, ns=(1, 1))
    assert looking.look() == looking.look() == []
    assert caplog.text.count("waits for an agent that can read it") == 1
    assert path.exists()


def test_what_failed_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, and by bytes: the newest stay."""
    monkeypatch.setattr(claims, "FAILED_MAX", 2)
    looking = requests(tmp_path)
    for number in range(4):
        folder = folder_of(tmp_path, leave(tmp_path, name=f"n{number}"))
        claim = looking.claim(folder)
        assert claim is not None
        claim.fail(f"reason {number}")
    requests(tmp_path).look()
    kept = sorted((f / "reason.txt").read_text() for f in outbox_dir(tmp_path).iterdir())
    assert kept == ["reason 2\n", "reason 3\n"]
    monkeypatch.setattr(claims, "FAILED_BYTES_MAX", 0)
    requests(tmp_path).look()
    assert list(outbox_dir(tmp_path).iterdir()) == []


def test_uploads_make_way_for_metrics_and_are_not_starved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    pace = Pace(Stop(), lambda: True)
    pace.moved(10)
    assert 1.9 < sum(waits) < 2.1
    assert pace.done == 10
    calm = Pace(Stop(), lambda: False)
    waits.clear()
    calm.moved(10)
    assert waits == []


def test_a_look_at_very_many_is_not_repeated_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day without the store: the agent asks several times a second, each time for all of them."""
    monkeypatch.setattr(claims, "MANY", 3)
    monkeypatch.setattr(claims, "LOOK_SHARE", 1e-9)
    monkeypatch.setattr(claims, "LOOK_REST_S_MAX", 0.3)
    looking = requests(tmp_path)
    for number in range(1, 5):
        leave(tmp_path)
        assert len(looking.look()) == min(number, 3)
    time.sleep(0.3)
    assert len(looking.look()) == 4


@pytest.mark.parametrize("error", [StoreAway("gone"), ValueError("odd")])
def test_trouble_ends_with_what_waited_for_it(tmp_path: Path, error: Exception) -> None:
    """`runwire sync` shipped it meanwhile: an idle agent has no cause to show any more."""

    def trouble(verb: str, key: str) -> None:
        raise error

    rig, request = UploadRig(tmp_path), leave(tmp_path)
    rig.store = MemoryObjectStore(trouble=trouble)
    rig.work()
    assert rig.uploader.report()["cause"] in ("store_away", "unexpected")
    folder_of(tmp_path, request).rename(tmp_path / request.artifact)
    rig.work()
    assert rig.uploader.report()["cause"] == rig.uploader.report()["sentence"] == ""
