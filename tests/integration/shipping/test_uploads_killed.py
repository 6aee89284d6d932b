"""Large uploads by an agent that is killed: absent until whole, then equal."""

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pytest

from runwire_disk.spool.reader import list_folders
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import ArtifactEvent, Chunk
from runwire_store.catalog import Catalog
from runwire_store.folder.store import FolderStore
from runwire_store.layout import BLOBS, RUNS, blob_key
from runwire_store.pieces import PieceList, piece_count
from support.agents import Agents
from support.kafka_log import read_topic
from support.servers import Cluster
from support.topics import make_topics
from support.uploads import for_kafka, leave, sha256
from support.watched import agent_events

END_S = 120
KILLS = 5  # then it may finish
SIZE = 200 * 1000 * 1000 + 1
KINDS = ["run", "heartbeat", "artifact", "chunk"]
MEMORY_FOLDER = Path("/dev/shm")


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    made = Agents(tmp_path)
    yield made
    made.close()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """The folder store on another file system where there is one: content is copied, not linked."""
    parent = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else tmp_path
    made = Path(mkdtemp(dir=parent))
    (tmp_path / "objects").symlink_to(made)
    yield made
    shutil.rmtree(made)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("nth", range(2))
def test_direct_upload_is_absent_or_whole_when_the_agent_is_killed(
    agents: Agents, seed: int, nth: int
) -> None:
    """In the folder store there is no manifest without its blob, and never half a blob."""
    chance = random.Random(f"{seed}/{nth}")
    content = chance.randbytes(SIZE)
    request = leave(agents.root, content)
    store = FolderStore(agents.root / "objects")
    outbox = agents.root / "outbox" / request.artifact
    for _ in range(KILLS):
        agent = agents.local_agent(idle_s=30)
        time.sleep(chance.uniform(0.3, 1.2))
        agent.kill()
        agent.wait()
        assert all(blob.size == SIZE for blob in store.list(BLOBS))
        if list(store.list(RUNS)):
            assert store.stat(blob_key(sha256(content))) is not None
        if not outbox.exists():
            break
    assert agents.local_agent().wait(END_S) == 0, agents.log_text()
    assert store.get(blob_key(sha256(content))) == content
    (version,) = Catalog(store).artifacts("p")
    assert version.manifest.artifact == request.artifact
    assert not list((agents.root / "outbox").iterdir())
    assert not list((agents.root / "objects" / ".tmp").iterdir())
    events = [event for event in agent_events(agents.root) if isinstance(event, ArtifactEvent)]
    assert {event.event for event in events} == {"complete"}


@pytest.fixture
def settings(kafka: Cluster, topic_prefix: str) -> KafkaSettings:
    make_topics(kafka.settings, topic_prefix, KINDS)
    return replace(kafka.settings, topic_prefix=topic_prefix)


@pytest.mark.parametrize("nth", range(2))
def test_kafka_upload_is_complete_when_the_agent_is_killed(
    agents: Agents, settings: KafkaSettings, seed: int, nth: int
) -> None:
    """Every piece arrives, repeats are equal, and the event about them comes last."""
    chance = random.Random(f"{seed}/kafka/{nth}")
    content = chance.randbytes(SIZE)
    request = leave(agents.root, content, **for_kafka(destination=settings.destination))
    outbox = agents.root / "outbox" / request.artifact
    for _ in range(KILLS):
        agent = agents.agent(settings, idle_s=30)
        time.sleep(chance.uniform(0.5, 2.0))
        agent.kill()
        agent.wait()
        if not outbox.exists():
            break
    assert agents.agent(settings).wait(END_S) == 0, agents.log_text()
    digest = sha256(content)
    pieces: dict[int, bytes] = {}
    for message in read_topic(settings, "chunk"):
        assert message.key == request.artifact.encode()
        chunk = codec.decode(message.value)
        assert isinstance(chunk, Chunk)
        assert (chunk.sha256, chunk.file_bytes) == (digest, SIZE)
        assert pieces.setdefault(chunk.index, chunk.payload) == chunk.payload
    assert len(pieces) == piece_count(SIZE)
    assert b"".join(pieces[index] for index in sorted(pieces)) == content
    words = [codec.decode(message.value) for message in read_topic(settings, "artifact")]
    assert {event.event for event in words if isinstance(event, ArtifactEvent)} == {"shipped"}
    for event in words:
        assert isinstance(event, ArtifactEvent)
        shipment = PieceList.from_json(event.manifest or "")
        assert shipment.manifest.files[0].sha256 == digest
    assert not list((agents.root / "outbox").iterdir())
    assert list_folders(agents.root) == []
