"""`runwire sync --to`: dead writers only, no batch in doubt, never a number used twice."""

from pathlib import Path

import pytest

from runwire_agent.ship.broker import MemoryBroker, MemoryCluster
from runwire_agent.ship.shipper import Shipper
from runwire_agent.sync.reroute_spool import reroute
from runwire_consumers.spool.journal import CutRange, IntentJournal
from runwire_disk.paths import embedded_dir
from runwire_disk.spool.format import read_cursor
from runwire_disk.spool.reader import FolderReader, read_meta
from runwire_schemas.connections.kafka import KafkaSettings
from support.shipping import KAFKA, ShippingRig, kafka_writer
from support.spools import metric_log, new_writer

OTHER = KafkaSettings(bootstrap_servers="other:9092", sasl_username="u", sasl_password="hunter2")


def test_a_local_folder_is_rerouted_to_kafka(tmp_path: Path) -> None:
    """The route changes, the rest of meta.json does not, and no secret is written."""
    writer = new_writer(tmp_path)
    metric_log(writer).log({"a": 1.0})
    writer.close()
    before = read_meta(writer.folder)
    outcome = reroute(tmp_path, OTHER)
    assert (outcome.moved, outcome.left) == ([writer.folder.name], {})
    after = read_meta(writer.folder)
    assert (after.route, after.destination) == ("kafka", OTHER.public())
    assert (after.writer, after.run_id, after.pid) == (before.writer, before.run_id, before.pid)
    assert "hunter2" not in (writer.folder / "meta.json").read_text()
    assert reroute(tmp_path, OTHER).moved == []


def test_the_folder_of_a_live_writer_is_not_moved(tmp_path: Path) -> None:
    """Its trainer would go on writing under the old destination."""
    writer = new_writer(tmp_path)
    outcome = reroute(tmp_path, KAFKA)
    assert outcome.moved == []
    assert "still writes it" in outcome.left[writer.folder.name]
    writer.close()


def test_a_folder_that_another_process_reads_is_not_moved(tmp_path: Path) -> None:
    """The reader would deliver it to the old destination at the same time."""
    writer = new_writer(tmp_path)
    writer.close()
    reader = FolderReader(writer.folder)
    assert "another process reads it" in reroute(tmp_path, KAFKA).left[writer.folder.name]
    reader.close()


def test_a_batch_in_doubt_keeps_its_folder_unless_forced(tmp_path: Path) -> None:
    """Sent and not acknowledged: with force its points go again, under a number of their own."""
    rig = ShippingRig(tmp_path)
    writer, log = rig.writer()
    rig.broker.acknowledges = False
    log.log({"a": 1.0})
    rig.run(1)
    rig.kill()
    writer.close()
    outcome = reroute(tmp_path, OTHER)
    assert outcome.moved == []
    assert "batches 0 to 0 may already be stored at k:9092" in outcome.left[writer.folder.name]
    assert reroute(tmp_path, OTHER, force=True).moved == [writer.folder.name]
    assert read_cursor(writer.folder).batch_seq == 1
    cluster = MemoryCluster()
    broker = MemoryBroker(cluster)
    shipper = Shipper(tmp_path, OTHER.destination, broker, monotonic_s=lambda: rig.now_s)
    for _ in range(20):
        shipper.step(0.1)
        rig.now_s += 0.1
    shipper.close()
    assert len(cluster.topics["metric"]) == 1
    assert cluster.topics["metric"] != rig.messages("metric")


def test_an_open_intent_of_the_embedded_worker_keeps_its_folder(tmp_path: Path) -> None:
    """Only the worker knows whether the batch was stored; after its `done` the folder moves."""
    writer = new_writer(tmp_path)
    metric_log(writer).log({"a": 1.0})
    writer.close()
    journal = IntentJournal(embedded_dir(tmp_path) / "journal")
    cut = CutRange(writer.folder.name, writer.meta.writer, "metric", 0, 1, 0)
    intent = journal.intend(0, [cut])
    left = reroute(tmp_path, KAFKA).left
    assert "the embedded worker" in left[writer.folder.name]
    journal.done(intent)
    journal.close()
    assert reroute(tmp_path, KAFKA).moved == [writer.folder.name]


def test_kafka_folders_can_return_to_the_embedded_worker(tmp_path: Path) -> None:
    """Route and destination in meta.json are those of a local folder again."""
    writer = kafka_writer(tmp_path)
    writer.close()
    assert reroute(tmp_path, None).moved == [writer.folder.name]
    assert read_meta(writer.folder).route == "local"
    assert read_meta(writer.folder).destination == {}


@pytest.mark.parametrize("text", ["", "{", '{"format": 99}'])
def test_a_folder_with_unreadable_meta_is_reported(tmp_path: Path, text: str) -> None:
    """Empty, torn or newer meta.json: the folder stays, and the report names it."""
    writer = new_writer(tmp_path)
    writer.close()
    (writer.folder / "meta.json").write_text(text)
    assert writer.folder.name in reroute(tmp_path, KAFKA).left
