"""The agent's metrics file, read by Prometheus' own parser."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from runwire_agent.state import StateFile
from runwire_disk.agents.lock import lock_path
from support.uploads import UploadRig, leave


def samples_of(root: Path) -> dict[str, float]:
    (path,) = root.rglob("*.prom")
    families = list(text_string_to_metric_families(path.read_text()))
    assert all(family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["destination"] for sample in samples} == {"local"}
    return {sample.name.removeprefix("runwire_agent_"): sample.value for sample in samples}


def test_metrics_count_waiting_and_shipped_artifacts(tmp_path: Path) -> None:
    """Waiting first, then shipped, with the bytes that the store has."""
    rig, request = UploadRig(tmp_path), leave(tmp_path)
    lock = lock_path(tmp_path, "boot", "pids")
    lock.parent.mkdir(parents=True, exist_ok=True)
    state = StateFile(lock, None)
    state.update(at_once=True, uploads=rig.uploader.report())
    before = samples_of(tmp_path)
    assert (before["artifacts_waiting"], before["upload_left_bytes"]) == (1, request.size)
    rig.work()
    state.update(at_once=True, uploads=rig.uploader.report())
    after = samples_of(tmp_path)
    assert (after["artifacts_waiting"], after["upload_left_bytes"]) == (0, 0)
    assert (after["artifacts_shipped_total"], after["artifacts_failed_total"]) == (1, 0)
    assert after["upload_bytes_total"] == request.size > 0
    assert after["state_time_seconds"] >= before["state_time_seconds"] > 1.7e9


def test_a_cause_sets_the_blocked_gauges_to_1(tmp_path: Path) -> None:
    """0 again without one; a folder that cannot be written costs nothing but the file."""
    lock = lock_path(tmp_path, "boot", "pids")
    state = StateFile(lock, None)
    state.update(at_once=True, cause="auth")  # the folder is missing
    assert not lock.parent.exists()
    lock.parent.mkdir(parents=True)
    state.update(at_once=True, uploads={"cause": "store_away"})
    assert (samples_of(tmp_path)["blocked"], samples_of(tmp_path)["uploads_blocked"]) == (1, 1)
    state.update(at_once=True, cause="", uploads={})
    assert (samples_of(tmp_path)["blocked"], samples_of(tmp_path)["uploads_blocked"]) == (0, 0)
