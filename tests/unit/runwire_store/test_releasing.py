"""The release of expired checkpoints by both of its callers, interrupted at every step."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runwire_consumers.core.batch import Batch
from runwire_consumers.core.source import Span
from runwire_consumers.objects.completion import Completion
from runwire_consumers.objects.sink import ObjectSink
from runwire_consumers.objects.staging import Staging
from runwire_schemas.events import ArtifactEvent
from runwire_store import store as stores
from runwire_store.announce import DELETED
from runwire_store.catalog import Catalog
from runwire_store.layout import RUNS, STAGING
from runwire_store.manifest import CheckpointFacts
from runwire_store.memory import MemoryObjectStore
from runwire_store.releasing import StagedReleaseNote, release
from runwire_store.retention import Retention
from runwire_store.store import StoreAway
from support.builders import AT_NS
from support.shipments import shipped
from support.stored import manifest, put_checkpoint
from support.uploads import UploadRig, leave

RULES = Retention(keep_last=1).as_json()


class Killed(BaseException):
    """The process is gone in the middle of a call."""


class Moments:
    """Counts store calls and reports of events, and fails at one of them."""

    def __init__(self, fault: Callable[[], BaseException]) -> None:
        self.fault = fault
        self.left: int | None = None
        self.has_failed = False

    def __call__(self, *_: str) -> None:
        if self.left is None:
            return
        self.left -= 1
        if not self.left:
            self.left, self.has_failed = None, True
            raise self.fault()


class Caller:
    """A program that publishes checkpoints and thereby releases earlier ones."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.store = MemoryObjectStore(trouble=moments)
        self.deleted: list[str] = []

    def record(self, events: Sequence[ArtifactEvent]) -> None:
        """Check that an artifact reported as deleted has no manifest at this moment."""
        self.moments()
        self.store.trouble = None
        manifests = [stat.key for stat in self.store.list(RUNS)]
        self.store.trouble = self.moments
        for event in events:
            if event.event == DELETED:
                assert not [key for key in manifests if event.artifact in key]
                self.deleted.append(event.artifact)

    @property
    def published(self) -> set[str]:
        """Artifacts with a manifest."""
        return {stat.key.removesuffix(".json")[-32:] for stat in self.store.list(RUNS)}


class AgentCaller(Caller):
    """The agent, on the direct route."""

    def __init__(self, moments: Moments, root: Path) -> None:
        super().__init__(moments)
        self.rig = UploadRig(root)
        self.rig.store = self.store
        self.rig.write = self.write  # type: ignore[method-assign]

    def save(self, step: int) -> str:
        facts = CheckpointFacts(step=step, retention=RULES)
        return leave(self.rig.root, b"%d" % step, type="checkpoint", checkpoint=facts).artifact

    def write(self, mode: str, fields: Mapping[str, Any]) -> bool:
        try:
            self.record([ArtifactEvent(**fields)])
        except StoreAway:  # as a full disk of the agent's spool
            return False
        return True

    def work(self) -> None:
        self.rig.work()

    def restart(self) -> None:
        self.rig.uploader.abandon()
        self.rig.start()


class WorkerCaller(Caller):
    """The object worker, on the Kafka route."""

    def __init__(self, moments: Moments, root: Path) -> None:
        super().__init__(moments)
        self.restart()

    def save(self, step: int) -> str:
        facts = CheckpointFacts(step=step, retention=RULES)
        one = shipped({"state.pt": b"%d" % step}, number=step, checkpoint=facts)
        events = {"chunk": one.chunks, "artifact": [one.event]}
        batch = Batch(token="t", spans={"p": Span(0, 1)}, append_at_ns=AT_NS, events=events)
        ObjectSink(self.staging, lambda _: None, self.record).write(batch)
        return one.artifact

    def work(self) -> None:
        for artifact in self.staging.shipped():
            assert self.completion.finish(artifact) == "complete"

    def restart(self) -> None:
        self.staging = Staging(self.store, puts=1)
        self.completion = Completion(self.staging, self.record, threads=1)


@pytest.mark.parametrize("fault", [Killed, lambda: StoreAway("away")], ids=["killed", "away"])
@pytest.mark.parametrize("new_caller", [AgentCaller, WorkerCaller])
def test_release_reports_only_deleted_checkpoints_wherever_it_is_interrupted(
    new_caller: type[AgentCaller | WorkerCaller],
    fault: Callable[[], BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted before any store call or report, "deleted" is never told of a checkpoint that
    exists, and a repeat deletes the expired one and reports it."""
    monkeypatch.setattr(stores, "PARALLEL_CALLS", 1)
    for moment in itertools.count(1):
        moments = Moments(fault)
        caller = new_caller(moments, tmp_path / str(moment))
        first = caller.save(1)
        caller.work()
        second = caller.save(2)
        moments.left = moment
        try:
            caller.work()
        except (Killed, StoreAway):
            assert moments.has_failed
        moments.left = None
        caller.restart()
        caller.work()
        assert caller.published == {second}, moment
        assert set(caller.deleted) == {first}, moment
        assert list(caller.store.list(STAGING)) == [], moment
        if not moments.has_failed:
            break
    assert moment > 10


class FailingNote:
    """A note that cannot be written."""

    def read_released(self) -> Sequence[str]:
        return []

    def write_released(self, manifests: Sequence[str]) -> None:
        raise OSError("no room")


def test_release_deletes_nothing_when_its_note_cannot_be_written() -> None:
    """Without the note a kill after the deletion would lose the report."""
    store = MemoryObjectStore()
    put_checkpoint(store, 1, 10)
    newest = put_checkpoint(store, 2, 20, retention=RULES)
    with pytest.raises(OSError, match="no room"):
        release(store, newest, FailingNote(), lambda _: None, now_ns=AT_NS)
    assert [view.step for view in Catalog(store).checkpoints("p", "r")] == [10, 20]


def test_damaged_note_of_a_release_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """A text that is no manifest is logged; the release deletes and reports the rest."""
    store = MemoryObjectStore()
    gone = put_checkpoint(store, 1, 10)
    newest = put_checkpoint(store, 2, 20, retention=RULES)
    note = StagedReleaseNote(store, newest.artifact)
    note.write_released(["{}"])
    told: list[ArtifactEvent] = []
    release(store, newest, note, told.extend, now_ns=AT_NS)
    assert [event.artifact for event in told] == [gone.artifact]
    assert "its note is damaged" in caplog.text


def test_release_without_rules_touches_nothing() -> None:
    """An artifact that is no checkpoint, or has no rules, releases nothing."""

    def forbidden(verb: str, key: str) -> None:
        raise AssertionError(f"{verb} {key}")

    store = MemoryObjectStore(trouble=forbidden)
    note = StagedReleaseNote(store, hashlib.md5(b"a", usedforsecurity=False).hexdigest())
    for published in (manifest(1), manifest(1, checkpoint=CheckpointFacts(step=1))):
        release(store, published, note, lambda _: None, now_ns=AT_NS)
