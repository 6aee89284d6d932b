"""The object worker against a real broker and real object stores."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runwire_consumers.kafka import acls
from runwire_consumers.kafka.admin import KafkaAdmin
from runwire_consumers.objects.staging import Staging
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.condemned import MARKS
from runwire_store.layout import STAGING, blob_key, checkpoints_prefix
from runwire_store.manifest import CheckpointFacts, Manifest
from runwire_store.part_uploads import part_uploads_of
from runwire_store.pieces import PIECE_BYTES
from runwire_store.retention import Retention
from runwire_store.s3.store import S3Store
from support.object_workers import ObjectWorkers
from support.servers import Cluster, SecureCluster
from support.shipments import Shipped, content, shipped
from support.topics import SESSION_S

MIB = 1024 * 1024


@pytest.fixture(params=["bucket", "minio_bucket"])
def place(request: pytest.FixtureRequest) -> S3Settings:
    """A bucket of each server."""
    found: S3Settings = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(place: S3Settings) -> Iterator[S3Store]:
    found = S3Store(place)
    yield found
    found.close()


@pytest.fixture
def workers(
    kafka: Cluster, topic_prefix: str, place: S3Settings, tmp_path: Path
) -> Iterator[ObjectWorkers]:
    found = ObjectWorkers(kafka.settings, topic_prefix, place, tmp_path)
    yield found
    found.close()


@pytest.fixture
def chosen(seed: int) -> random.Random:
    return random.Random(seed)


def staged(store: S3Store) -> list[str]:
    return [stat.key for stat in store.list(STAGING) if not stat.key.startswith(MARKS)]


def is_there(store: S3Store, one: Shipped) -> bool:
    return store.stat(one.manifest.key) is not None


def check(store: S3Store, one: Shipped, folder: Path) -> None:
    """The artifact is whole: every file equal to what was sent."""
    manifest = Manifest.from_json(store.get(one.manifest.key))
    assert manifest.files == one.manifest.files
    for number, (entry, data) in enumerate(zip(manifest.files, one.contents.values(), strict=True)):
        if data:
            path = folder / f"back-{one.artifact}-{number}"
            store.get_file(blob_key(entry.sha256), path)
            assert path.read_bytes() == data


def test_worker_publishes_whole_artifacts_and_empties_staging(
    workers: ObjectWorkers, store: S3Store, tmp_path: Path, chosen: random.Random
) -> None:
    """Files of all sizes, a checkpoint and an empty artifact arrive whole, with mixed pieces."""
    sizes = {"big.bin": 37 * MIB + 5, "five.bin": 5 * MIB, "small.txt": 11, "empty": 0}
    first = shipped({name: content(size, chosen) for name, size in sizes.items()})
    facts = CheckpointFacts(step=4)
    second = shipped({"state.pt": content(9 * MIB, chosen)}, number=2, checkpoint=facts)
    third = shipped({"nothing": b""}, number=3, name="nothing")
    workers.start()
    mixed = [c for pair in zip(first.chunks, second.chunks, strict=False) for c in pair]
    rest = first.chunks[len(second.chunks) :] + second.chunks[len(first.chunks) :]
    workers.send([second.event, *mixed, *rest, first.event, third.event])
    ours = (first, second, third)
    workers.wait("all are there", lambda: all(is_there(store, one) for one in ours))
    workers.wait("nothing is staged", lambda: staged(store) == [])
    workers.stop()
    for one in ours:
        check(store, one, tmp_path)
    told = {event.artifact: event for event in workers.completions()}
    assert {event.event for event in told.values()} == {"complete"}
    stamp = Manifest.from_json(store.get(first.manifest.key)).version_at_ns
    assert told[first.artifact].version_at_ns == stamp
    assert told[second.artifact].uri == f"{store.uri}/{blob_key(second.manifest.files[0].sha256)}"
    assert workers.letters() == []


@pytest.mark.parametrize("turn", range(2))
def test_artifacts_arrive_whole_when_workers_are_killed(
    workers: ObjectWorkers, store: S3Store, turn: int, *, tmp_path: Path, seed: int
) -> None:
    """One of two workers is killed repeatedly while an agent sends some pieces twice."""
    chosen = random.Random(seed + turn)
    ours = [
        shipped(
            {"state.pt": content(chosen.randrange(20, 60) * MIB + 7, chosen)},
            number=number,
            checkpoint=CheckpointFacts(step=number) if number % 2 else None,
            name="model" if not number % 2 else "checkpoint-run-1",
        )
        for number in (1, 2, 3)
    ]
    alive = [workers.start(), workers.start()]
    for one in ours:
        again = chosen.randrange(len(one.chunks))
        for part in (one.chunks[:again], one.chunks[max(0, again - 9) :], [one.event]):
            workers.send(part)
            victim = alive.pop(chosen.randrange(2))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            alive.append(workers.start())
    workers.wait("all are there", lambda: all(is_there(store, one) for one in ours))
    workers.wait("nothing is staged", lambda: staged(store) == [])
    workers.stop()
    for one in ours:
        check(store, one, tmp_path)
    last = {event.artifact: event for event in workers.completions()}
    assert {event.event for event in last.values()} == {"complete"}
    assert workers.letters() == []


def test_survivor_finishes_artifacts_staged_by_a_dead_worker(
    workers: ObjectWorkers, store: S3Store, tmp_path: Path, chosen: random.Random
) -> None:
    """All pieces were staged and committed, so no new record announces them."""
    survivor, victim = workers.start(), workers.start()
    before = shipped({"a.bin": content(MIB, chosen)})
    workers.send([*before.chunks, before.event])
    workers.wait("they work", lambda: is_there(store, before))
    time.sleep(SESSION_S)  # both are members and have looked through staging
    left = shipped({"b.bin": content(3 * MIB, chosen)}, number=2, name="left")
    staging = Staging(store, part_uploads=part_uploads_of(store))
    staging.add(left.chunks)
    staging.add_shipped(left.artifact, (left.event.manifest or "").encode())
    staging.close()
    victim.kill()
    workers.wait("the survivor took over", lambda: is_there(store, left))
    workers.wait("nothing is staged", lambda: staged(store) == [])
    check(store, left, tmp_path)
    assert survivor.poll() is None
    workers.stop()


def test_damaged_pieces_become_dead_letters_with_reasons(
    workers: ObjectWorkers, store: S3Store, tmp_path: Path, chosen: random.Random
) -> None:
    """Wrong digests, surplus pieces and noise become dead letters; other artifacts arrive."""
    one = shipped({"a.bin": content(3 * MIB, chosen)})
    bad = shipped({"b.bin": content(3 * MIB, chosen)}, number=2, name="bad")
    wrong = replace(bad.chunks[1], payload=b"\0" * PIECE_BYTES)
    longer = replace(bad.chunks[2], index=99)
    hostile = replace(bad.event, artifact="../../etc")
    workers.start()
    workers.send([bad.chunks[0], wrong, longer, bad.event, hostile])
    workers.send_bytes("chunk", b"noise")
    workers.send([*one.chunks, one.event])
    workers.wait("the good one is there", lambda: is_there(store, one))
    workers.wait("four letters", lambda: len(workers.letters()) == 4)
    workers.stop()
    check(store, one, tmp_path)
    assert not is_there(store, bad)
    reasons = " | ".join(letter.reason for letter in workers.letters())
    for said in ("is damaged", "there are 6 pieces", "cannot be decoded", "carries the manifest"):
        assert said in reasons


def test_incomplete_artifact_fails_after_its_time_and_is_swept(
    workers: ObjectWorkers, store: S3Store, chosen: random.Random
) -> None:
    """An artifact that misses a piece is reported as failed, and its staging is deleted."""
    one = shipped({"a.bin": content(9 * MIB, chosen)})
    process = workers.start()
    workers.send([*one.chunks[:-1], one.event])
    workers.wait("its pieces are staged", lambda: len(staged(store)) > 1)
    process.terminate()
    assert process.wait(30) == 0
    workers.start(staging_s=1)
    workers.wait("nothing is staged", lambda: staged(store) == [])
    workers.wait("it is told", lambda: [e.event for e in workers.completions()] == ["failed"])
    workers.stop()
    assert "pieces are still missing after" in (workers.completions()[0].reason or "")
    assert not is_there(store, one)


def test_worker_applies_retention_when_a_checkpoint_arrives(
    workers: ObjectWorkers, store: S3Store, chosen: random.Random
) -> None:
    """With keep_last=1 the earlier checkpoints are deleted and reported as deleted."""
    rules = Retention(keep_last=1).as_json()
    workers.start()
    for number in (1, 2, 3):
        facts = CheckpointFacts(step=number, retention=rules)
        one = shipped({"s.pt": content(MIB + number, chosen)}, number=number, checkpoint=facts)
        workers.send([*one.chunks, one.event])
        workers.wait("it is there", lambda one=one: is_there(store, one))  # type: ignore[misc]
    prefix = checkpoints_prefix("tests", "run-1")
    workers.wait("one is left", lambda: len(list(store.list(prefix))) == 1)
    workers.wait("nothing is staged", lambda: staged(store) == [])
    workers.stop()
    deleted = {event.artifact for event in workers.completions() if event.event == "deleted"}
    assert deleted == {f"{number:032x}" for number in (1, 2)}


def test_worker_waits_and_commits_nothing_while_the_bucket_is_missing(
    workers: ObjectWorkers,
    store: S3Store,
    place: S3Settings,
    chosen: random.Random,
    *,
    tmp_path: Path,
) -> None:
    """The log says what to do, nothing is committed or lost, and no worker ends."""
    one = shipped({"a.bin": content(3 * MIB, chosen)})
    workers.s3 = replace(place, bucket=f"{place.bucket}-none")
    process = workers.start(shutdown_s=0.5)
    workers.send([*one.chunks, one.event])
    said = f"{place.bucket}-none"
    workers.wait("it is said", lambda: said in workers.log.read_text())
    workers.wait("it waits", lambda: "nothing is lost" in workers.log.read_text())
    assert process.poll() is None
    process.kill()
    process.wait()
    workers.s3 = place
    workers.start()
    workers.wait("it is there", lambda: is_there(store, one))
    workers.stop()
    check(store, one, tmp_path)
    assert workers.letters() == []


def test_worker_runs_with_the_rights_of_migrate_objects_user(
    kafka_secure: SecureCluster,
    minio_bucket: S3Settings,
    topic_prefix: str,
    chosen: random.Random,
    *,
    tmp_path: Path,
) -> None:
    """The ACLs of `runwire migrate --acls --objects-user` suffice, dead letters included."""
    workers = ObjectWorkers(kafka_secure.admin, topic_prefix, minio_bucket, tmp_path)
    wanted = acls.grants(
        prefix=topic_prefix,
        group="unused",
        objects_group=f"{topic_prefix}.objects",
        objects_user="worker",
    )
    assert acls.apply(KafkaAdmin(kafka_secure.admin), wanted)
    workers.kafka = replace(kafka_secure.worker, topic_prefix=topic_prefix)
    store = S3Store(minio_bucket)
    one = shipped({"a.bin": content(9 * MIB, chosen)})
    try:
        workers.start()
        workers.send([replace(one.chunks[0], digest=b"?"), *one.chunks, one.event])
        workers.wait("it is there", lambda: is_there(store, one))
        workers.wait("it is told", lambda: [e.event for e in workers.completions()] == ["complete"])
        workers.wait("the bad piece is kept", lambda: len(workers.letters()) == 1)
        workers.stop()
        check(store, one, tmp_path)
    finally:
        workers.close()
        store.close()
