"""What `runwire status` and `doctor` say of the outbox, and when `runwire up` starts an agent."""

import time
from pathlib import Path
from typing import Any

import pytest

from runwire_consumers.stack import agent
from runwire_consumers.stack.checkup import _outbox
from runwire_consumers.stack.destinations import destinations
from runwire_consumers.stack.uploads import lines, uploads
from runwire_disk.agents.state import AgentState, write_state
from support.uploads import folder_of, for_kafka, leave

S3 = {"endpoint": "http://s:9000", "bucket": "b12"}


def say(root: Path, at_ns: int | None = None, **told: Any) -> None:
    """An agent's state, as if it wrote it now."""
    (root / "agents").mkdir(exist_ok=True)
    fields = {"bytes_left": 0, "current": "", "cause": "", "sentence": "", "since_ns": 0} | told
    state = AgentState(key="local", at_ns=at_ns or time.time_ns(), uploads=fields)
    write_state(root / "agents" / "1.json", state)


def test_an_empty_outbox_is_not_worth_a_line(tmp_path: Path) -> None:
    assert lines(uploads(tmp_path)) == []
    assert _outbox(uploads(tmp_path)).level == "ok"


def test_what_waits_is_counted(tmp_path: Path) -> None:
    leave(tmp_path, [b"a" * 1000, b"b" * 500])
    leave(tmp_path, b"c" * 500)
    (tmp_path / "outbox" / "not-committed").mkdir()
    found = uploads(tmp_path)
    assert (found["waiting"], found["bytes"], found["bytes_left"]) == (2, 2000, None)
    said = "\n".join(lines(found))
    assert "2 waiting, 0.0 MB left" in said
    assert "no agent is here: `runwire sync` uploads them" in said


def test_an_agent_s_progress_and_cause_are_shown(tmp_path: Path) -> None:
    leave(tmp_path, b"a" * 4_000_000)
    say(tmp_path, bytes_left=3_000_000, current="model")
    assert "1 waiting, 3.0 MB left to upload, now 'model'" in lines(uploads(tmp_path))[0]
    since_ns = time.time_ns() - 7_000_000_000
    say(tmp_path, cause="store_refused", sentence="no such bucket", since_ns=since_ns)
    found = uploads(tmp_path)
    assert "not uploaded for 7 s: no such bucket" in lines(found)[1]
    assert (_outbox(found).level, _outbox(found).advice) == ("warn", "no such bucket")


def test_an_agent_that_is_gone_says_nothing(tmp_path: Path) -> None:
    leave(tmp_path)
    say(tmp_path, at_ns=1, cause="store_refused", sentence="no such bucket")
    assert uploads(tmp_path)["cause"] == ""


def test_failed_artifacts_are_named_with_their_reason(tmp_path: Path) -> None:
    request = leave(tmp_path)
    folder = folder_of(tmp_path, request)
    (folder / "reason.txt").write_text("'a' is gone\n")
    folder.rename(folder.with_name(f"failed-{request.artifact}"))
    found = uploads(tmp_path)
    assert found["waiting"] == 0
    assert lines(found) == [
        f"  an artifact failed and is kept as outbox/failed-{request.artifact}: 'a' is gone"
    ]
    assert "1 failed" in _outbox(found).found


def test_a_local_agent_is_no_destination(tmp_path: Path) -> None:
    leave(tmp_path)
    say(tmp_path)
    assert destinations(tmp_path) == []


def test_up_starts_an_agent_for_what_it_can_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for brokers, not for a store that it has no keys of, not online for offline runs."""
    leave(tmp_path, **for_kafka())
    leave(tmp_path, store=S3)
    assert not agent.has_work(tmp_path)
    monkeypatch.setenv("RUNWIRE_S3_ENDPOINT", "http://s:9000")
    assert agent.has_work(tmp_path)
    monkeypatch.delenv("RUNWIRE_S3_ENDPOINT")
    leave(tmp_path, mode="offline")
    assert agent.has_work(tmp_path)
