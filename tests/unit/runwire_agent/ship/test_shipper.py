"""The shipper against brokers in memory: order, acknowledgements, journal, outages."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire.metrics.flush import wait_stored
from runwire_agent.ship import shipped_folder
from runwire_agent.ship.broker import UNREACHABLE, Failure
from runwire_agent.ship.shipped_folder import QUIET_S, SAVE_S
from runwire_agent.ship.shipper import AWAY_AFTER_S
from runwire_disk.spool.format import ENDED_FILE, read_cursor
from runwire_disk.spool.reader import FolderReader, list_folders
from runwire_schemas.events import DeadLetter
from support.effort import IS_QUICK
from support.shipping import ShippingRig, distinct_batches, kafka_writer, points_of
from support.spools import metric_log, new_writer

AWAY = Failure(UNREACHABLE, "no broker answers")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ShippingRig]:
    made = ShippingRig(tmp_path)
    yield made
    made.end()


def test_points_arrive_once_and_move_the_cursor(rig: ShippingRig) -> None:
    """Every record of a writer under its key; the folder is deleted once its writer has ended."""
    writer, log = rig.writer()
    writer.append_json("run", {"event": "started"})
    for call in range(50):
        log.log({"a": call, "b": 0.5})
    rig.settle()
    batches = distinct_batches(rig.messages("metric"))
    assert len(rig.messages("metric")) == len(batches)
    assert len(set(points_of(batches))) == len(points_of(batches)) == 100
    assert [event.event for event in rig.events("run")] == ["started"]
    cursor = read_cursor(writer.folder)
    assert (cursor.positions["lifecycle"], cursor.accepted) == (1, 100)
    writer.append_json("run", {"event": "finished", "status": "finished"})
    writer.close()
    rig.settle()
    assert list_folders(rig.root) == []


def test_unacknowledged_cuts_are_sent_again_byte_for_byte(rig: ShippingRig) -> None:
    """Killed between delivery and acknowledgement: the same cuts, then new ones."""
    _, log = rig.writer()
    rig.broker.acknowledges = False
    for call in range(300):
        log.log({"a": call})
        if call % 100 == 50:
            rig.run(0.5)
    first = list(rig.messages("metric"))
    assert len(first) == 3
    rig.kill()
    rig.start()
    rig.settle()
    again = rig.messages("metric")[len(first) :]
    assert again[: len(first)] == first
    batches = distinct_batches(rig.messages("metric"))
    assert [batch.batch_seq for batch in batches] == list(range(len(batches)))
    assert len(points_of(batches)) == len(set(points_of(batches))) == 300


def test_only_a_contiguous_prefix_moves_the_cursor(rig: ShippingRig) -> None:
    """A topic refuses the record in the middle: what follows it is sent again, nothing is lost."""
    writer, _ = rig.writer()
    rig.cluster.denied.add("param")
    writer.append_json("run", {"event": "started"})
    writer.append_json("param", {"key": "lr", "value": "1"})
    writer.append_json("run", {"event": "updated"})
    rig.run(5)
    assert read_cursor(writer.folder).positions["lifecycle"] == 1
    assert rig.shipper.trouble is not None
    rig.cluster.denied.clear()
    rig.settle()
    assert rig.shipper.trouble is None
    assert read_cursor(writer.folder).positions["lifecycle"] == 3
    assert len(rig.messages("param")) == 1
    assert len({message.value for message in rig.messages("run")}) == 2


def test_missing_topic_stops_its_own_series_only(rig: ShippingRig) -> None:
    """Metrics are delivered while the topic of logs does not exist, and logs once it does."""
    writer, log = rig.writer()
    rig.cluster.missing.add("log")
    writer.append_json("log", {"stream": "text", "name": "x", "level": "info", "text": "t"})
    log.log({"a": 1})
    rig.run(3)
    assert len(rig.messages("metric")) == 1
    assert rig.messages("log") == []
    rig.cluster.missing.clear()
    rig.settle()
    assert len(rig.messages("log")) == 1


def test_unreachable_brokers_keep_the_spool_and_free_the_folders(rig: ShippingRig) -> None:
    """A writer over its quota drops the oldest points itself, which a held folder would forbid."""
    writer, log = rig.writer()
    rig.cluster.away = AWAY
    log.log({"a": 0.0})
    rig.run(AWAY_AFTER_S + 1)
    assert rig.shipper.is_away
    assert rig.shipper.trouble == AWAY
    FolderReader(writer.folder).close()
    log.log({"a": 1.0})
    rig.cluster.away = None
    rig.settle()
    points = points_of(distinct_batches(rig.messages("metric")))
    assert [point[1:] for point in points] == [(0, "a", 0.0), (1, "a", 1.0)]


def test_points_given_up_during_an_outage_are_no_damage(rig: ShippingRig) -> None:
    """Evicted by the quota: counted as dropped by the writer, and nothing else is missing."""
    writer, _ = rig.writer(quota_bytes=3 << 20)
    log = metric_log(writer, failures=[])
    log.log({"a": 0.0})
    rig.cluster.away = AWAY
    rig.run(AWAY_AFTER_S + 1)
    for call in range(1, 60_000):
        log.log({"a": call})
    assert writer.dropped["evicted"] > 0
    rig.cluster.away = None
    rig.settle()
    points = points_of(distinct_batches(rig.messages("metric")))
    assert len(points) == len(set(points)) == 60_000 - writer.dropped["evicted"]
    assert rig.messages("deadletter") == []


def test_folder_is_released_while_its_topic_stays_missing(rig: ShippingRig) -> None:
    """The writer can evict its oldest points meanwhile; once the topic exists all is delivered."""
    writer, log = rig.writer()
    log.log({"a": 0.0})
    rig.cluster.missing.add("metric")
    released = 0
    for _ in range(300):
        rig.run(0.1)
        assert not rig.shipper.is_idle
        released += rig.shipper.folders.get(writer.folder) is None
    assert released > 50
    rig.cluster.missing.clear()
    rig.settle()
    assert len(rig.messages("metric")) == 1


def test_batch_too_large_for_its_topic_is_split(rig: ShippingRig) -> None:
    """Brokers with a lower limit: the refused number never appears, all points do, once."""
    rig.cluster.bytes_max = 4096
    _, log = rig.writer()
    for call in range(2000):
        log.log({"a": call * 1.5})
    rig.settle()
    points = points_of(distinct_batches(rig.messages("metric")))
    assert len(points) == len(set(points)) == 2000
    assert rig.messages("deadletter") == []
    assert all(len(message.value) <= 4096 for message in rig.messages("metric"))


def test_killed_agent_continues_with_the_halves_of_a_split(rig: ShippingRig) -> None:
    """Killed at any moment, the next agent sends the same halves, not the refused batch."""
    rig.cluster.bytes_max = 4096
    _, log = rig.writer()
    for call in range(2000):
        log.log({"a": call * 1.5})
    for _ in range(8 if IS_QUICK else 40):
        rig.run(0.2)
        rig.kill()
        rig.start()
    rig.settle()
    points = points_of(distinct_batches(rig.messages("metric")))
    assert len(points) == len(set(points)) == 2000


def test_small_records_are_not_blamed_for_a_large_batch(rig: ShippingRig) -> None:
    """librdkafka batches up to 1 MB: with a lower limit the batch is too large, not its records."""
    rig.cluster.bytes_max = 2000
    writer, _ = rig.writer()
    for _ in range(200):
        writer.append_json("run", {"event": "updated"})
    rig.settle()
    assert len({message.value for message in rig.messages("run")}) == 200
    assert rig.shipper.in_flight.set_aside == 0


def test_record_that_never_fits_is_set_aside_as_a_file(
    rig: ShippingRig, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept as a file and reported by a log line and a dead letter; later records are sent."""
    rig.cluster.bytes_max = 4096
    writer, _ = rig.writer()
    writer.append_json("run", {"event": "updated", "summary": "x" * 10_000})
    writer.append_json("run", {"event": "finished", "status": "finished"})
    writer.close()
    rig.settle()
    assert [event.event for event in rig.events("run")][-1] == "finished"
    (letter,) = rig.events("deadletter")
    assert isinstance(letter, DeadLetter)
    assert (letter.run_id, letter.offset, letter.points) == ("run-1", 0, 0)
    assert "max.message.bytes" in letter.reason
    assert letter.reason in caplog.text
    (folder,) = list_folders(rig.root)
    (kept,) = folder.glob("oversized-*")
    assert kept.stat().st_size > 10_000
    assert rig.shipper.in_flight.set_aside == 1


def test_record_that_cannot_be_set_aside_waits_and_others_go_on(rig: ShippingRig) -> None:
    """A disk that is full at this moment ends no agent; the record is kept once it has room."""
    rig.cluster.bytes_max = 4096
    (writer, _), (_, log) = rig.writer(), rig.writer()
    obstacle = writer.folder / "oversized-lifecycle-0.bin"
    obstacle.mkdir()
    writer.append_json("run", {"event": "updated", "summary": "x" * 10_000})
    rig.run(3)
    log.log({"a": 1.0})
    rig.run(3)
    assert len(rig.messages("metric")) == 1
    assert rig.events("deadletter") == []
    obstacle.rmdir()
    rig.run(5)
    assert obstacle.stat().st_size > 10_000
    assert len(rig.events("deadletter")) == 1


def test_points_of_a_call_that_never_fits_are_counted(rig: ShippingRig) -> None:
    """The call is set aside as one dead letter of all its points; its neighbours arrive."""
    rig.cluster.bytes_max = 4096
    _, log = rig.writer()
    log.log({"a": 1.0})
    log.log({f"metric/{number}": 1.0 for number in range(1000)})
    log.log({"a": 2.0})
    rig.settle()
    points = points_of(distinct_batches(rig.messages("metric")))
    assert [point[2:] for point in points] == [("a", 1.0), ("a", 2.0)]
    assert sum(letter.points for letter in rig.events("deadletter")) == 1000
    assert sum(message.points for message in rig.messages("deadletter")) == 1000


def test_folders_of_other_destinations_are_not_touched(rig: ShippingRig, tmp_path: Path) -> None:
    """They are neither shipped nor locked."""
    from runwire_schemas.connections.kafka import KafkaSettings

    other = kafka_writer(tmp_path, KafkaSettings(bootstrap_servers="elsewhere:9092"))
    local = new_writer(tmp_path)
    for made in (other, local):
        metric_log(made).log({"a": 1.0})
    rig.run(3)
    assert rig.cluster.topics == {}
    for made in (other, local):
        FolderReader(made.folder).close()
        made.close()


def test_deleted_folder_is_released_and_the_shipper_is_idle(
    rig: ShippingRig, tmp_path: Path
) -> None:
    """A folder that a person removed does not keep the agent running."""
    writer, log = rig.writer()
    log.log({"a": 1.0})
    rig.run(1)
    writer.folder.rename(tmp_path / "gone")
    rig.run(3)
    assert rig.shipper.is_idle


def test_full_producer_queue_delays_records_and_loses_none(
    rig: ShippingRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that finds no room is offered again, from its place on."""
    monkeypatch.setattr(shipped_folder, "QUEUE_FULL_POLLS", 3)
    rig.start(queue_bytes=200)
    writer, _ = rig.writer()
    for _ in range(20):
        writer.append_json("run", {"event": "updated"})
    rig.settle()
    assert len(rig.messages("run")) == 20


def test_cursor_is_saved_at_once_for_a_caller_that_waits(rig: ShippingRig) -> None:
    """A writer that logs on has its position saved every few seconds, in `flush` right away."""
    writer, log = rig.writer()
    log.log({"a": 0.0})
    rig.settle()
    for call in range(1, 4):
        log.log({"a": call})
        rig.run(1.0)
    assert len(rig.messages("metric")) == 4
    assert read_cursor(writer.folder).accepted == 1
    assert wait_stored(writer, 0.001).pending == 3
    log.log({"a": 4.0})
    rig.run(1.0)
    assert read_cursor(writer.folder).accepted == 5


def test_position_that_could_not_be_saved_is_saved_later(rig: ShippingRig) -> None:
    """A disk without room for a moment: nobody logs again, and a caller of `flush` waits."""
    writer, log = rig.writer()
    log.log({"a": 1.0})
    obstacle = writer.folder / "cursor.json.new"
    obstacle.mkdir()
    rig.run(SAVE_S + QUIET_S)
    assert len(rig.messages("metric")) == 1
    assert read_cursor(writer.folder).accepted == 0
    obstacle.rmdir()
    rig.run(2 * SAVE_S)
    assert read_cursor(writer.folder).accepted == 1
    assert len(rig.messages("metric")) == 1


def test_folder_that_cannot_be_deleted_is_not_sent_under_other_numbers(rig: ShippingRig) -> None:
    """Its position was not saved yet; the journal still knows the cuts, and one save ends it."""
    writer, log = rig.writer()
    log.log({"a": 0.0})
    rig.settle()
    for call in (1.0, 2.0):
        log.log({"a": call})
        rig.run(0.5)
    obstacle = writer.folder.with_name("." + writer.folder.name)
    (obstacle / "left").mkdir(parents=True)
    (writer.folder / ENDED_FILE).write_text("{}", "utf-8")
    writer.close()
    rig.run(20)
    sent = len(rig.messages("metric"))
    batches = distinct_batches(rig.messages("metric"))
    assert len(points_of(batches)) == len(set(points_of(batches))) == 3
    rig.run(20)
    assert len(rig.messages("metric")) == sent
    shutil.rmtree(obstacle)
    rig.run(5)
    assert list_folders(rig.root) == []
