"""The outbox in `runwire status` and `doctor`: counts, progress, causes and failures."""

import time
from pathlib import Path
from typing import Any

from runwire_agent.survey.destinations import destinations
from runwire_agent.survey.outbox import check_outbox, lines, uploads
from runwire_disk.agents.state import AgentState, write_state
from runwire_disk.survey import Finding
from support.uploads import folder_of, leave


def report(root: Path, at_ns: int | None = None, **facts: Any) -> None:
    """An agent's state, as if it wrote it now."""
    (root / "agents").mkdir(exist_ok=True)
    fields = {"bytes_left": 0, "current": "", "cause": "", "sentence": "", "since_ns": 0} | facts
    state = AgentState(key="local", at_ns=at_ns or time.time_ns(), uploads=fields)
    write_state(root / "agents" / "1.json", state)


def finding(root: Path) -> Finding:
    (made,) = check_outbox(root).findings
    return made


def test_an_empty_outbox_adds_no_line_to_status(tmp_path: Path) -> None:
    """Status shows what waits; doctor reports the outbox as sound."""
    assert lines(uploads(tmp_path)) == []
    assert finding(tmp_path).level == "ok"


def test_committed_requests_are_counted_with_their_bytes(tmp_path: Path) -> None:
    """A call in progress has committed nothing and does not count."""
    leave(tmp_path, [b"a" * 1000, b"b" * 500])
    leave(tmp_path, b"c" * 500)
    (tmp_path / "outbox" / "not-committed").mkdir()
    found = uploads(tmp_path)
    assert (found["waiting"], found["bytes"], found["bytes_left"]) == (2, 2000, None)
    text = "\n".join(lines(found))
    assert "2 waiting, 0.0 MB left" in text
    assert "no agent runs: `runwire sync` uploads them" in text


def test_progress_and_cause_of_a_running_agent_are_shown(tmp_path: Path) -> None:
    """The current artifact while it moves, the cause and its age while it does not."""
    leave(tmp_path, b"a" * 4_000_000)
    report(tmp_path, bytes_left=3_000_000, current="model")
    assert "1 waiting, 3.0 MB left to upload, now 'model'" in lines(uploads(tmp_path))[0]
    since_ns = time.time_ns() - 7_000_000_000
    report(tmp_path, cause="store_refused", sentence="no such bucket", since_ns=since_ns)
    found = uploads(tmp_path)
    assert "not uploaded for 7 s: no such bucket" in lines(found)[1]
    assert (finding(tmp_path).level, finding(tmp_path).advice) == ("warn", "no such bucket")


def test_state_of_an_agent_older_than_30_s_is_ignored(tmp_path: Path) -> None:
    """An agent that died cannot know whether its cause still holds."""
    leave(tmp_path)
    report(tmp_path, at_ns=1, cause="store_refused", sentence="no such bucket")
    assert uploads(tmp_path)["cause"] == ""


def test_failed_artifacts_are_named_with_their_reason(tmp_path: Path) -> None:
    """They never leave the outbox by themselves, so a user has to see them."""
    request = leave(tmp_path)
    folder = folder_of(tmp_path, request)
    (folder / "reason.txt").write_text("'a' is gone\n")
    folder.rename(folder.with_name(f"failed-{request.artifact}"))
    found = uploads(tmp_path)
    assert found["waiting"] == 0
    assert lines(found) == [
        f"  an artifact failed and is kept as outbox/failed-{request.artifact}: 'a' is gone"
    ]
    assert "1 failed" in finding(tmp_path).found


def test_a_local_agent_is_no_kafka_destination(tmp_path: Path) -> None:
    """Its state reports uploads alone."""
    leave(tmp_path)
    report(tmp_path)
    assert destinations(tmp_path) == []
