"""The transport of the Kafka route: the pieces it sends, and that a repeat sends the same ones."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from runwire_agent.ship.broker import (
    DENIED,
    SILENT,
    UNREACHABLE,
    Failure,
    MemoryBroker,
    Message,
)
from runwire_agent.upload import chunks as kafka
from runwire_agent.upload.transport import Pace, Stopped
from runwire_disk.outbox.request import RequestFile, content_path
from runwire_schemas.events import Chunk
from runwire_store.pieces import DIGEST_BYTES, PIECE_BYTES
from support.uploads import UploadRig, folder_of, for_kafka, leave, sha256, with_digests


@pytest.fixture
def rig(tmp_path: Path) -> UploadRig:
    return UploadRig(tmp_path)


@pytest.fixture
def content(seed: int) -> bytes:
    """Nine pieces, the last of them short."""
    return random.Random(seed).randbytes(8 * PIECE_BYTES + 1000)


def joined(chunks: list[Chunk]) -> bytes:
    """The content that pieces make, after checking that each says the same of it."""
    by_index = {chunk.index: chunk for chunk in chunks}
    assert {(c.count, c.sha256, c.file_bytes) for c in chunks} == {
        (len(by_index), chunks[0].sha256, chunks[0].file_bytes)
    }
    assert all(hashlib.sha256(c.payload).digest() == c.digest for c in chunks)
    assert len({(c.index, c.payload) for c in chunks}) == len(by_index)
    return b"".join(by_index[index].payload for index in sorted(by_index))


def test_all_pieces_are_sent_before_the_piece_list(rig: UploadRig, content: bytes) -> None:
    """Pieces carry the content; the list that follows has manifest and digests."""
    request = leave(rig.root, content, **for_kafka())
    rig.work()
    chunks = rig.chunks(request)
    assert len(chunks) == 9
    assert joined(chunks) == content
    assert {m.key for m in rig.cluster.topics["chunk"]} == {request.artifact.encode()}
    (listed,) = rig.piece_lists(request)
    assert listed.manifest.files[0].sha256 == sha256(content)
    assert listed.manifest.route == "kafka"
    assert listed.pieces == {sha256(content): b"".join(c.digest for c in chunks)}
    assert rig.told == []  # the worker tells when it is complete
    assert rig.waiting == []
    assert rig.uploader.pace.done == len(content)


def test_empty_and_equal_files_are_sent_at_most_once(rig: UploadRig) -> None:
    """Each content travels once, an empty one not at all."""
    contents = [b"a" * (PIECE_BYTES + 1), b"", b"b", b"b"]
    request = leave(rig.root, contents, **for_kafka())
    rig.work()
    (listed,) = rig.piece_lists(request)
    assert [e.sha256 for e in listed.manifest.files] == [sha256(c) for c in contents]
    assert {k: len(v) // DIGEST_BYTES for k, v in listed.pieces.items()} == {
        sha256(contents[0]): 2,
        sha256(b""): 0,
        sha256(b"b"): 1,
    }
    assert len(rig.chunks(request)) == 3


def test_artifact_by_reference_sends_only_the_piece_list(rig: UploadRig, tmp_path: Path) -> None:
    """No piece is sent for a file that stays at its path."""
    there = tmp_path / "large.bin"
    there.write_bytes(b"x" * 100)
    file = RequestFile(path="large.bin", index=0, size=100, source=str(there))
    request = leave(rig.root, [], files=(file,), **for_kafka())
    rig.work()
    assert rig.chunks(request) == []
    (listed,) = rig.piece_lists(request)
    assert listed.manifest.files[0].uri == there.as_uri()


def test_a_replay_sends_the_same_pieces(rig: UploadRig, content: bytes) -> None:
    """Killed without an acknowledgement: everything again, byte for byte."""
    request = leave(rig.root, content, **for_kafka())
    rig.uploader.work()
    rig.uploader.close()
    again = leave(rig.root, content, **for_kafka(artifact=request.artifact))
    rig.start()
    rig.work()
    messages = rig.cluster.topics["chunk"]
    assert len(messages) == 18
    assert len(set(messages)) == 9
    assert joined(rig.chunks(again)) == content


def test_acknowledged_pieces_are_not_sent_again(
    rig: UploadRig, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word is refused; the next agent sends that alone, with all digests."""
    rig.cluster.denied.add("artifact")
    request = leave(rig.root, content, **for_kafka())
    rig.work()
    assert len(rig.chunks(request)) == 9
    assert rig.uploader.report()["cause"] == DENIED
    rig.uploader.close()
    rig.cluster.denied.clear()
    rig.start()
    rig.work()
    assert len(rig.chunks(request)) == 9
    (listed,) = rig.piece_lists(request)
    assert len(listed.pieces[sha256(content)]) == 9 * DIGEST_BYTES


def test_pieces_acknowledged_over_a_day_ago_are_sent_again(rig: UploadRig, content: bytes) -> None:
    """Brokers may have let the pieces go since."""
    rig.cluster.denied.add("artifact")
    request = leave(rig.root, content, **for_kafka())
    rig.work()
    rig.uploader.close()
    journal = folder_of(rig.root, request) / "upload.json"
    text = journal.read_text()
    at = text.index('"acked_at_s": ') + len('"acked_at_s": ')
    journal.write_text(text[:at] + "1.0" + text[text.index(",", at) :])
    rig.cluster.denied.clear()
    rig.start()
    rig.work()
    assert len(rig.chunks(request)) == 18


def test_torn_progress_note_sends_all_pieces_again(rig: UploadRig, content: bytes) -> None:
    """An unreadable note only repeats work."""
    request = leave(rig.root, content, **for_kafka())
    (folder_of(rig.root, request) / "upload.json").write_text('{"acked": {')
    rig.work()
    assert joined(rig.chunks(request)) == content


def test_unreachable_brokers_are_reported_and_uploads_resume_later(
    rig: UploadRig, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told with its cause, asked before content is read again, taken up when they answer."""
    monkeypatch.setattr(kafka, "AWAY_AFTER_S", 0.0)
    rig.cluster.away = Failure(UNREACHABLE, "no broker answers at k:9092")
    request = leave(rig.root, content, **for_kafka())
    rig.work()
    assert rig.uploader.report()["cause"] == UNREACHABLE
    assert rig.uploader.report()["bytes_left"] == len(content)
    rig.now_s += 2.0
    rig.work()
    rig.cluster.away = None
    rig.now_s += 30.0
    rig.work()
    assert joined(rig.chunks(request)) == content
    assert len(rig.piece_lists(request)) == 1
    assert rig.uploader.report()["cause"] == ""


def test_brokers_that_never_acknowledge_are_reported_as_silent(
    rig: UploadRig, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The brokers accept every message and acknowledge none."""
    monkeypatch.setattr(kafka, "SILENT_AFTER_S", 0.0)
    request = leave(rig.root, content, **for_kafka())

    def silence(broker: MemoryBroker) -> None:
        broker.acknowledges = False

    rig.prepare_broker = silence
    rig.work()
    assert rig.uploader.report()["cause"] == SILENT
    assert rig.waiting == [request.artifact]


def test_content_that_is_not_what_was_logged_never_completes(rig: UploadRig) -> None:
    """Pieces may have been sent; without their list no worker joins them."""
    request = leave(rig.root, b"right", **for_kafka())
    with_digests(request, b"right").commit(folder_of(rig.root, request))
    content_path(folder_of(rig.root, request), 0).write_bytes(b"wrong")
    rig.work()
    assert rig.piece_lists(request) == []
    assert [e.event for e in rig.told] == ["failed"]
    assert "no longer what was logged" in (rig.told[0].reason or "")


def test_artifact_fails_when_its_content_is_gone(rig: UploadRig) -> None:
    """A file deleted from the outbox makes the artifact fail with a reason."""
    request = leave(rig.root, b"right", **for_kafka())
    with_digests(request, b"right").commit(folder_of(rig.root, request))
    content_path(folder_of(rig.root, request), 0).unlink()
    rig.work()
    assert "is gone from the outbox" in (rig.told[0].reason or "")


def test_bytes_in_flight_stay_below_the_limit(
    rig: UploadRig, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender waits for acknowledgements instead of queueing the whole file."""
    monkeypatch.setattr(kafka, "IN_FLIGHT_BYTES_MAX", 2 * PIECE_BYTES)
    most = 0
    request = leave(rig.root, content, **for_kafka())
    in_flight = 0

    def watch(broker: MemoryBroker) -> None:
        produce = broker.produce

        def counted(message: Message, done: Callable[[Failure | None], None]) -> bool:
            nonlocal most, in_flight

            def acknowledged(failure: Failure | None) -> None:
                nonlocal in_flight
                in_flight -= 1
                done(failure)

            taken = produce(message, acknowledged)
            in_flight += taken
            most = max(most, in_flight)
            return taken

        broker.produce = counted  # type: ignore[method-assign, assignment]

    rig.prepare_broker = watch
    rig.work()
    assert joined(rig.chunks(request)) == content
    assert 1 <= most <= 2


def test_stopped_agent_sends_no_piece_list(rig: UploadRig, content: bytes) -> None:
    """After a stop in the middle of the pieces the request stays in the outbox."""
    request = leave(rig.root, content, **for_kafka())
    stop_at = 3 * PIECE_BYTES
    moved = Pace.moved

    def until(pace: Pace, size: int) -> None:
        if pace.done >= stop_at:
            rig.stop.set()
        moved(pace, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka, "IN_FLIGHT_BYTES_MAX", PIECE_BYTES)
        patch.setattr(Pace, "moved", until)
        with pytest.raises(Stopped):
            rig.uploader.work()
    rig.uploader.close()
    assert rig.piece_lists(request) == []
    rig.start()
    rig.work()
    assert joined(rig.chunks(request)) == content
    assert rig.waiting == []
