"""An agent with an outbox: its uploads, its end, and its reports."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire import agent_launch as launch
from runwire.agent_launch import is_unfit
from runwire.settings import Settings
from runwire_agent.agent import Agent
from runwire_agent.ship.broker import UNREACHABLE, Failure, MemoryCluster
from runwire_agent.survey import outbox as survey
from runwire_agent.sync.outbox import OutboxSync
from runwire_agent.sync.reroute_outbox import reroute_artifacts
from runwire_agent.sync.spool import Sync
from runwire_agent.upload import transport
from runwire_disk.agents.state import AgentState, read_states
from runwire_disk.spool.reader import list_folders
from runwire_schemas import codec
from runwire_schemas.events import ArtifactEvent
from runwire_store.catalog import Catalog
from runwire_store.open import open_store
from support.node import Polling, elected_agent, node_settings
from support.shipping import KAFKA
from support.uploads import folder_of, for_kafka, leave
from support.watched import agent_events, close_writers, trainer, wait_until


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BACKOFF_S", 0.05)


def agent(root: Path, cluster: MemoryCluster | None = None, *, stay_s: float = 600.0) -> Agent:
    return elected_agent(root, None if cluster is None else KAFKA, cluster, stay_s=stay_s)


def names(root: Path) -> list[str]:
    """Artifacts that the local store shows."""
    return [version.ref for version in Catalog(open_store(None, root)).artifacts("p")]


def artifact_events(root: Path) -> list[ArtifactEvent]:
    return [event for event in agent_events(root) if isinstance(event, ArtifactEvent)]


def outbox(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "outbox").iterdir())


def test_agent_uploads_records_and_ends_when_idle(tmp_path: Path) -> None:
    """Without brokers: into the folder store, the event in the agent's own spool."""
    request = leave(tmp_path, b"weights")
    agent(tmp_path).run()
    assert names(tmp_path) == ["things:v0"]
    (event,) = artifact_events(tmp_path)
    assert (event.event, event.artifact, event.writer) == ("complete", request.artifact, "0" * 32)
    assert event.uri.startswith((tmp_path / "objects").as_uri())
    assert outbox(tmp_path) == []


def test_with_brokers_pieces_and_events_arrive(tmp_path: Path) -> None:
    """One artifact of each route: the direct one's event travels with the agent's spool."""
    pieces = leave(tmp_path, b"pieces", **for_kafka())
    direct = leave(tmp_path, b"direct", destination=KAFKA.destination)
    cluster = MemoryCluster()
    agent(tmp_path, cluster).run()
    events = [codec.decode(message.value) for message in cluster.topics["artifact"]]
    assert {(e.artifact, e.event) for e in events if isinstance(e, ArtifactEvent)} == {
        (pieces.artifact, "shipped"),
        (direct.artifact, "complete"),
    }
    assert len(cluster.topics["chunk"]) == 1
    assert outbox(tmp_path) == []
    assert list_folders(tmp_path) == []


def test_agent_leaves_requests_of_other_destinations(tmp_path: Path) -> None:
    """A request for other brokers stays in the outbox."""
    request = leave(tmp_path, **for_kafka())
    agent(tmp_path).run()
    assert outbox(tmp_path) == [request.artifact]


def test_agent_stays_until_a_damaged_store_is_repaired(tmp_path: Path) -> None:
    """The cause stands in the state and in `runwire status`; nothing is lost."""
    (tmp_path / "objects").write_text("in the way")
    leave(tmp_path, b"weights")
    made = agent(tmp_path)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:

        def causes() -> list[str]:
            return [str(s.uploads.get("cause")) for s in read_states(tmp_path).values()]

        wait_until(lambda: causes() == ["store_refused"])
        told = survey.uploads(tmp_path)
        assert (told["waiting"], told["cause"]) == (1, "store_refused")
        lines = "\n".join(survey.lines(told))
        assert "1 waiting" in lines
        assert "Give this user the right to it" in lines or "not uploaded for" in lines
        assert thread.is_alive()
        (tmp_path / "objects").unlink()
        thread.join(30.0)
        assert not thread.is_alive()
    finally:
        made.stop.set()
        thread.join()
    assert names(tmp_path) == ["things:v0"]
    assert survey.lines(survey.uploads(tmp_path)) == []


def test_agent_ends_after_stay_s_without_progress_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An agent without trainers and without progress ends and names what it leaves."""
    caplog.set_level(logging.INFO)
    (tmp_path / "objects").write_text("in the way")
    request = leave(tmp_path, b"weights")
    agent(tmp_path, stay_s=0.3).run()
    assert "leaving 1 artifacts in the outbox" in caplog.text
    assert caplog.text.count("artifacts wait in the outbox: ") == 1
    assert outbox(tmp_path) == [request.artifact]
    (tmp_path / "objects").unlink()
    agent(tmp_path).run()
    assert names(tmp_path) == ["things:v0"]


def test_unreachable_brokers_do_not_stop_direct_uploads(tmp_path: Path) -> None:
    """The store is another destination: artifacts arrive, their events wait in the spool."""
    leave(tmp_path, b"direct", destination=KAFKA.destination)
    away = MemoryCluster(away=Failure(UNREACHABLE, "no broker answers"))
    made = agent(tmp_path, away)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        wait_until(lambda: outbox(tmp_path) == [])
    finally:
        made.stop.set()
        thread.join()
    assert names(tmp_path) == ["things:v0"]
    cluster = MemoryCluster()
    agent(tmp_path, cluster).run()
    assert len(cluster.topics["artifact"]) == 1


def test_stopped_agent_ends_and_the_next_one_resumes(tmp_path: Path) -> None:
    """An upload interrupted by the end of its agent is completed by the next one."""
    (tmp_path / "objects").write_text("in the way")
    leave(tmp_path, b"weights")
    made = agent(tmp_path)
    made.stop.set()
    made.run()
    assert not made.lock.held()
    (tmp_path / "objects").unlink()
    agent(tmp_path).run()
    assert names(tmp_path) == ["things:v0"]


def test_offline_artifacts_stay_on_the_machine_until_sync(tmp_path: Path) -> None:
    """Into the folder store at once; to brokers with `runwire sync`."""
    leave(tmp_path, b"here", mode="offline")
    sent = leave(tmp_path, b"there", mode="offline", **for_kafka())
    agent(tmp_path).run()
    agent(tmp_path, cluster := MemoryCluster()).run()
    assert names(tmp_path) == ["things:v0"]
    assert outbox(tmp_path) == [sent.artifact]
    assert "chunk" not in cluster.topics
    told: list[str] = []
    sync = Sync(node_settings(tmp_path, KAFKA), new_broker=lambda: Polling(cluster))
    assert sync.deliver(10.0, told.append) == ""
    sync.close()
    assert sync.facts()["artifacts"] == 1
    assert len(cluster.topics["chunk"]) == 1
    assert outbox(tmp_path) == []


def test_sync_delivers_the_events_of_its_uploads_too(tmp_path: Path) -> None:
    """What became of a direct upload is in the topic when `sync` ends, and no folder is left."""
    leave(tmp_path, b"direct", mode="offline", destination=KAFKA.destination, store={})
    leave(tmp_path, b"more", mode="offline", destination=KAFKA.destination, store={})
    cluster = MemoryCluster()
    sync = Sync(node_settings(tmp_path, KAFKA), new_broker=lambda: Polling(cluster))
    assert sync.deliver(10.0, lambda _: None) == ""
    sync.close()
    assert len(cluster.topics["artifact"]) == 2
    assert list_folders(tmp_path) == []


def test_sync_without_brokers_uploads_artifacts(tmp_path: Path) -> None:
    """`runwire sync` without broker settings uploads the outbox to the store."""
    leave(tmp_path, b"here")
    sync = OutboxSync(node_settings(tmp_path))
    assert sync.deliver(10.0, lambda _: None) == ""
    sync.close()
    assert names(tmp_path) == ["things:v0"]
    assert [e.event for e in artifact_events(tmp_path)] == ["complete"]


def test_sync_reports_artifacts_it_could_not_upload(tmp_path: Path) -> None:
    """`runwire sync` exits non-zero and names the reason."""
    (tmp_path / "objects").write_text("in the way")
    leave(tmp_path, b"here")
    told: list[str] = []
    sync = OutboxSync(node_settings(tmp_path))
    problem = sync.deliver(0.3, told.append)
    sync.close()
    assert "1 artifacts (0.0 MB) are not uploaded: " in problem
    assert "run `runwire sync` again" in problem
    assert any("1 artifacts" in line for line in told)


def test_artifacts_can_be_rerouted_to_another_destination(tmp_path: Path) -> None:
    """`--to kafka` and back; what an agent works on stays."""
    request = leave(tmp_path, b"here", mode="offline")
    settings = Settings(dir=str(tmp_path), kafka_bootstrap_servers="k:9092")
    (folder_of(tmp_path, request) / "put-1.json").write_text("{}")
    assert reroute_artifacts(settings, KAFKA).moved == [request.artifact]
    assert not (folder_of(tmp_path, request) / "put-1.json").exists()
    assert reroute_artifacts(settings, KAFKA).moved == []
    assert reroute_artifacts(settings, None).moved == [request.artifact]
    agent(tmp_path).run()
    assert names(tmp_path) == ["things:v0"]


def test_heartbeats_continue_while_an_upload_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that does not answer for a while holds up nothing but its own thread."""
    from runwire_agent.upload.direct import DirectTransport
    from runwire_schemas.events import Heartbeat

    held = threading.Event()
    upload: Callable[..., None] = DirectTransport.upload

    def standing(self: DirectTransport, *args: object) -> None:
        held.wait(30.0)
        upload(self, *args)

    monkeypatch.setattr(DirectTransport, "upload", standing)
    trainer(tmp_path)
    leave(tmp_path)
    made = elected_agent(tmp_path, heartbeat_s=0.05)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        wait_until(lambda: sum(isinstance(e, Heartbeat) for e in agent_events(tmp_path)) >= 5)
        assert names(tmp_path) == []
    finally:
        held.set()
        close_writers()
        thread.join(30.0)
    assert names(tmp_path) == ["things:v0"]


S3 = Settings(s3_endpoint="http://s:9000", s3_access_key="a", s3_secret_key="secret")


def state(settings: Settings | None, **uploads: object) -> AgentState:
    s3 = settings.s3 if settings is not None else None
    return AgentState(key="local", uploads={"store": s3.public() if s3 else {}, **uploads})


def test_agent_without_the_keys_of_a_run_is_succeeded() -> None:
    """The successor gets the settings of the trainer that starts it."""
    in_file = replace(S3, s3_secret_key=None, s3_secret_key_file="/keys/secret")
    assert is_unfit(state(None), S3)
    assert not is_unfit(state(S3), S3)
    assert not is_unfit(state(None), Settings())
    assert not is_unfit(state(None), in_file), "it reads the file itself"
    assert is_unfit(state(S3, cause="store_refused"), S3)
    assert not is_unfit(state(S3, cause="store_away"), S3)
    assert not is_unfit(AgentState(key="local"), S3), "it has not said yet"
    assert launch.SUCCEED_S > 0
