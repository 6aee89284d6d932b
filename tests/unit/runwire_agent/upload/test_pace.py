"""Uploads beside metrics, and the cause that an idle uploader shows."""

import threading
from pathlib import Path

import pytest

from runwire_agent.upload.transport import Pace
from runwire_store.memory import MemoryObjectStore
from runwire_store.store import StoreAway
from support.uploads import UploadRig, folder_of, leave


def test_uploads_yield_to_metrics_and_are_not_starved() -> None:
    """While metrics wait an upload pauses, for two seconds at most, and then continues."""
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


@pytest.mark.parametrize("error", [StoreAway("gone"), ValueError("odd")])
def test_trouble_is_forgotten_when_its_request_is_gone(tmp_path: Path, error: Exception) -> None:
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
