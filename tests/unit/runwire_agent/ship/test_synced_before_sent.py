"""Records are on the device before a broker sees them, although files are synced side by side."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from runwire_agent.ship.broker import Done, MemoryBroker, Message
from runwire_agent.ship.shipper import Shipper
from support.shipping import KAFKA, STEP_S, ShippingRig, distinct_batches, points_of

WRITERS, ROUNDS = 12, 8


class Noting(MemoryBroker):
    """Notes whose records it is handed."""

    def __init__(self, rig: ShippingRig, notes: list[tuple[str, str]]) -> None:
        super().__init__(rig.cluster)
        self.notes = notes

    def produce(self, message: Message, done: Done) -> bool:
        self.notes.append(("sent", message.key.decode()))
        return super().produce(message, done)


def test_every_file_is_synced_before_its_records_are_sent(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lifecycle records of random writers: each look syncs the segment of each, then sends."""
    chance = random.Random(seed)
    rig = ShippingRig(tmp_path)
    writers = {made.folder.name: made for made, _ in (rig.writer() for _ in range(WRITERS))}
    notes: list[tuple[str, str]] = []
    sync = os.fdatasync

    def note(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        sync(fd)
        if path.name.startswith("lifecycle-"):
            notes.append(("synced", writers[path.parent.name].meta.writer))

    monkeypatch.setattr(os, "fdatasync", note)
    rig.broker = Noting(rig, notes)
    rig.shipper = Shipper(tmp_path, KAFKA.destination, rig.broker, monotonic_s=lambda: rig.now_s)
    for _ in range(ROUNDS):
        chosen = chance.sample(list(writers.values()), chance.randrange(1, WRITERS + 1))
        for writer in chosen:
            writer.append_json("run", {"event": "updated"})
        notes.clear()
        rig.settle()
        assert sorted({who for what, who in notes if what == "sent"}) == sorted(
            writer.meta.writer for writer in chosen
        )
        for writer in chosen:
            mine = [what for what, who in notes if who == writer.meta.writer]
            assert mine == ["synced", "sent"]
    rig.end()


def test_file_that_cannot_be_synced_keeps_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk error of one segment: its records are not sent, those of the others are."""
    rig = ShippingRig(tmp_path)
    (bad, bad_log), (_, good_log) = rig.writer(), rig.writer()
    sync = os.fdatasync

    def refuse(fd: int) -> None:
        if bad.folder.name in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.EIO, "input/output error")
        sync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        for log in (bad_log, good_log):
            log.log({"a": 1.0})
        for _ in range(20):
            rig.run(STEP_S)
    sent = {point[0] for point in points_of(distinct_batches(rig.messages("metric")))}
    assert bad.meta.writer not in sent
    assert len(sent) == 1
    assert caplog.text.count("cannot be shipped for now") == 1
    rig.run(5)
    rig.settle()
    points = points_of(distinct_batches(rig.messages("metric")))
    assert len(points) == len(set(points)) == 2
    rig.end()
