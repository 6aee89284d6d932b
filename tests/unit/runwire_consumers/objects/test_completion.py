"""Completion: an artifact is absent or whole and leaves no staging, with any kills of workers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from runwire_consumers.core.batch import Batch
from runwire_consumers.core.source import Span
from runwire_consumers.objects.completion import Completion
from runwire_consumers.objects.sink import ObjectSink
from runwire_consumers.objects.staging import Staging
from runwire_schemas.events import ArtifactEvent, Chunk
from runwire_store.condemned import MARK_S, MARKS, NS
from runwire_store.layout import RUNS, STAGING, blob_key
from runwire_store.manifest import CheckpointFacts
from runwire_store.memory import MemoryObjectStore
from runwire_store.part_uploads import MemoryPartUploads
from runwire_store.pieces import PIECE_BYTES
from runwire_store.retention import Retention
from runwire_store.store import StoreAway
from support.builders import AT_NS
from support.effort import IS_QUICK
from support.shipments import Shipped, content, shipped

MIB = 1024 * 1024


class Killed(BaseException):
    """The process is gone in the middle of a call."""


class World:
    """One store, one log of messages, and workers that die and overtake one another.

    Each call of the store is a moment at which a worker may die or another one do a whole batch.
    """

    def __init__(self, chosen: random.Random, *, has_uploads: bool) -> None:
        self.chosen = chosen
        self.now_ns = AT_NS
        self.told: list[ArtifactEvent] = []
        self.store = MemoryObjectStore(clock_ns=self.clock_ns, trouble=self._moment)
        self.uploads = MemoryPartUploads(self.store) if has_uploads else None
        self.deaths_left = self.guests_left = 0
        self.guest: Callable[[], None] | None = None
        self.worker = Worker(self)

    def clock_ns(self) -> int:
        self.now_ns += 1000
        return self.now_ns

    def _moment(self, verb: str, key: str) -> None:
        if self.deaths_left and self.chosen.random() < 0.02:
            self.deaths_left -= 1
            raise Killed
        if self.guest is not None and self.guests_left and self.chosen.random() < 0.02:
            guest, self.guest = self.guest, None
            self.guests_left -= 1
            guest()
            self.guest = guest

    def quiet(self) -> None:
        self.deaths_left = self.guests_left = 0


class Worker:
    """One process: its sink, and the artifacts that it means to finish."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.staging = Staging(world.store, part_uploads=world.uploads, puts=1)
        self.completion = Completion(
            self.staging, world.told.extend, clock_ns=world.clock_ns, threads=1
        )
        self.waiting: list[str] = list(self.staging.shipped())
        self.sink = ObjectSink(self.staging, self.waiting.append, world.told.extend)

    def write(self, chunks: Sequence[Chunk], events: Sequence[ArtifactEvent] = ()) -> None:
        self.sink.write(batch(chunks, events))

    def finish(self) -> None:
        tries = 0
        while self.waiting:
            try:
                self.completion.finish(self.waiting[0])
            except StoreAway:  # for as long as the mark of a worker that died is respected
                tries += 1
                assert tries < 10
                self.world.now_ns += int(MARK_S * NS)
                continue
            self.waiting.pop(0)


def batch(chunks: Sequence[Chunk], events: Sequence[ArtifactEvent] = ()) -> Batch:
    return Batch(
        token="t",
        spans={"p": Span(0, 1)},
        append_at_ns=AT_NS,
        events={"chunk": list(chunks), "artifact": list(events)},
    )


def check(world: World, *artifacts: Shipped) -> None:
    """All of them are published, whole, and nothing is left in staging."""
    for one in artifacts:
        stored = type(one.manifest).from_json(world.store.get(one.manifest.key))
        assert stored.files == one.manifest.files
        assert stored.version_at_ns > 0
        for entry, data in zip(stored.files, one.contents.values(), strict=True):
            if data:
                assert world.store.get(blob_key(entry.sha256)) == data
        told = [event for event in world.told if event.artifact == one.artifact]
        assert {event.event for event in told} == {"complete"}
        # Two that publish at once may disagree for a moment; the last word is the right one.
        assert told[-1].version_at_ns == stored.version_at_ns
    left = [stat.key for stat in world.store.list(STAGING)]
    # A mark goes with the next sweep.
    assert [key for key in left if not key.startswith(MARKS)] == []


@pytest.fixture
def chosen(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture(params=["joined", "in parts"])
def world(chosen: random.Random, request: pytest.FixtureRequest) -> World:
    return World(chosen, has_uploads=request.param == "in parts")


def some_artifact(chosen: random.Random, *, number: int = 1) -> Shipped:
    sizes = chosen.sample([0, 1, PIECE_BYTES, 5 * MIB, 9 * MIB, 20 * MIB + 3, 32 * MIB], 3)
    contents = {f"file-{n}": content(size, chosen) for n, size in enumerate(sizes)}
    facts = CheckpointFacts(step=number) if chosen.random() < 0.5 else None
    return shipped(contents, number=number, checkpoint=facts)


@pytest.mark.parametrize("has_uploads", [False, True], ids=["joined", "in parts"])
@pytest.mark.parametrize("turn", range(2 if IS_QUICK else 8))
def test_artifacts_complete_with_any_batches_kills_and_concurrent_workers(
    turn: int, seed: int, *, has_uploads: bool
) -> None:
    """Batches of any bounds, replays, repeats, the manifest at any time, workers dying and a second
    one doing the same at any moment: the same artifacts, and nothing else."""
    chosen = random.Random(seed * 100 + turn)
    world = World(chosen, has_uploads=has_uploads)
    ours = [some_artifact(chosen, number=turn * 10 + n) for n in range(2)]
    chunks = _with_repeats([chunk for one in ours for chunk in one.chunks], chosen)
    world.deaths_left, world.guests_left = 4, 4
    offset = events_at = 0
    order = chosen.choice(["first", "last", "between"])
    while offset < len(chunks) or events_at < len(ours):
        is_over = offset >= len(chunks)
        turn_of_events = events_at < len(ours) and (
            is_over or order == "first" or (order == "between" and chosen.random() < 0.2)
        )
        end = offset if turn_of_events else min(len(chunks), offset + chosen.randrange(1, 40))
        part, events = chunks[offset:end], ours[events_at:][:1] if turn_of_events else []
        replayed = chunks[max(0, offset - chosen.randrange(40)) : end]
        world.guest = lambda replayed=replayed: _as_guest(world, replayed)  # type: ignore[misc]
        try:
            world.worker.write(part, [one.event for one in events])
            if chosen.random() < 0.7:
                world.worker.finish()
        except Killed:
            world.worker = _restarted(world)
            continue
        offset, events_at = end, events_at + len(events)
    world.quiet()
    world.worker.finish()
    Worker(world).finish()
    check(world, *ours)


def _with_repeats(chunks: list[Chunk], chosen: random.Random) -> list[Chunk]:
    """What an agent sends that was killed twice: it goes back a little each time."""
    for _ in range(2):
        at = chosen.randrange(len(chunks))
        chunks = chunks[:at] + chunks[max(0, at - chosen.randrange(20)) :]
    return chunks


def _as_guest(world: World, chunks: Sequence[Chunk]) -> None:
    """Another worker that has the same partition, or had it, does a batch of its own."""
    deaths, world.deaths_left = world.deaths_left, 0
    guest = Worker(world)
    guest.write(chunks)
    if world.chosen.random() < 0.5:
        with suppress(StoreAway):  # it waits while the other one reads back what it has joined
            guest.finish()
    world.deaths_left = deaths


def _restarted(world: World) -> Worker:
    while True:
        try:
            return Worker(world)
        except Killed:
            continue


def test_artifact_completes_with_pieces_before_and_after_the_list(
    world: World, chosen: random.Random
) -> None:
    """The order of pieces and list does not matter."""
    one = shipped({"a.bin": content(9 * MIB, chosen)})
    world.worker.write(one.chunks[:10])
    world.worker.write([], [one.event])
    assert world.worker.waiting == [one.artifact]
    assert world.worker.completion.finish(one.artifact) == ""
    assert world.store.stat(one.manifest.key) is None
    world.worker.write(one.chunks[10:])
    world.worker.finish()
    check(world, one)


def test_pieces_replayed_after_completion_leave_no_staging(
    world: World, chosen: random.Random
) -> None:
    """Late copies of pieces are deleted from staging."""
    for facts in (None, CheckpointFacts(step=7)):
        number = 1 if facts is None else 2
        one = shipped({"a.bin": content(9 * MIB, chosen)}, number=number, checkpoint=facts)
        world.worker.write(one.chunks, [one.event])
        world.worker.finish()
        again = Worker(world)
        again.write(one.chunks[3:9])
        again.write(one.chunks, [one.event])
        again.finish()
        check(world, one)
        at = {event.at_ns for event in world.told if event.artifact == one.artifact}
        assert len(at) <= 2, "a repetition says when it was published first"


def test_existing_content_is_not_joined_again(world: World, chosen: random.Random) -> None:
    """A blob that the store has is used as it is."""
    data = content(9 * MIB, chosen)
    first, second = shipped({"a": data}), shipped({"b": data}, number=2, name="other")
    world.worker.write(first.chunks, [first.event])
    world.worker.finish()
    before = world.store.stat(blob_key(first.manifest.files[0].sha256))
    world.worker.write(second.chunks, [second.event])
    world.worker.finish()
    assert world.store.stat(blob_key(first.manifest.files[0].sha256)) == before
    check(world, first, second)


def test_two_artifacts_with_interleaved_pieces_both_complete(
    world: World, chosen: random.Random
) -> None:
    """Pieces of several artifacts in one batch are kept apart."""
    ours = [shipped({"a": content(9 * MIB + n, chosen)}, number=n) for n in (1, 2)]
    mixed = [chunk for pair in zip(ours[0].chunks, ours[1].chunks, strict=False) for chunk in pair]
    mixed += ours[1].chunks[len(ours[0].chunks) :]
    world.worker.write(mixed, [one.event for one in ours])
    world.worker.finish()
    check(world, *ours)


def test_artifact_without_content_completes_from_its_list_alone(world: World) -> None:
    """References and empty files need no pieces."""
    one = shipped({"empty": b""})
    world.worker.write([], [one.event])
    world.worker.finish()
    check(world, one)


def test_content_with_another_digest_is_never_published(
    world: World, chosen: random.Random
) -> None:
    """The file changed between hashing and sending: with and without a restart in between."""
    for restart in (False, True):
        one = shipped({"a.bin": content(3 * MIB, chosen)}, number=1 + restart)
        other = shipped({"a.bin": content(3 * MIB, chosen)}, number=1 + restart)
        sha256 = one.manifest.files[0].sha256
        text = (other.event.manifest or "").replace(other.manifest.files[0].sha256, sha256)
        event = replace(one.event, manifest=text)
        world.worker.write([replace(chunk, sha256=sha256) for chunk in other.chunks])
        if restart:
            world.worker = Worker(world)
        world.worker.write([], [event])
        world.worker.finish()
        assert world.store.stat(blob_key(sha256)) is None
        assert world.store.stat(one.manifest.key) is None
        assert [e.event for e in world.told if e.artifact == one.artifact] == ["failed"]
        assert "the file changed" in (world.told[-1].reason or "")
        assert list(world.store.list(STAGING)) == []


def test_expired_checkpoint_is_announced_after_its_deletion(
    world: World, chosen: random.Random
) -> None:
    """The event "deleted" is announced only once the manifest is gone from the store."""
    rules = Retention(keep_last=1).as_json()
    ours = [
        shipped(
            {"state.pt": content(MIB + n, chosen)},
            number=n,
            checkpoint=CheckpointFacts(step=n, retention=rules),
        )
        for n in (1, 2, 3)
    ]
    for one in ours[:2]:
        world.worker.write(one.chunks, [one.event])
        world.worker.finish()
    world.worker.write(ours[2].chunks, [ours[2].event])

    def dies(verb: str, key: str) -> None:
        if verb == "delete" and key.startswith(RUNS):
            raise Killed

    world.store.trouble = dies
    with pytest.raises(Killed):
        world.worker.finish()
    world.store.trouble = None
    Worker(world).finish()
    told = [(event.event, event.artifact) for event in world.told]
    assert ("deleted", ours[0].artifact) in told
    assert ("deleted", ours[1].artifact) in told
    assert ("deleted", ours[2].artifact) not in told
    world.told.clear()
    assert [world.store.stat(one.manifest.key) is None for one in ours] == [True, True, False]
    assert list(world.store.list(STAGING)) == []
