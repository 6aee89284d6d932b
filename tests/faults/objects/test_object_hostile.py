"""A malicious producer on the Kafka route: refused or harmless, and no other artifact suffers.

The object worker keeps running, only artifacts that were sent whole appear, no key leaves the
layout, no blob has another's digest, and an honest artifact sent behind all of it arrives.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from dataclasses import replace

import pytest

from faults.objects import report
from faults.objects.conftest import OpenRig
from faults.objects.contents import LARGE_BYTES
from faults.objects.finish import finish
from faults.objects.forger import PIECE_BYTES, Forger, Forgery, forge
from faults.objects.forgeries import manifests, pieces
from faults.objects.form import only_long
from faults.objects.observer import Observer, blob_of
from faults.objects.plain import PlainStore, read
from faults.objects.rig import Rig
from faults.objects.verdict import assert_whole
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters
from runwire_schemas import codec
from runwire_schemas.connections.s3 import S3Settings
from runwire_schemas.events import ArtifactEvent
from support.kafka_log import read_topic

pytestmark = pytest.mark.engine

LAYOUT = re.compile(
    r"blobs/[0-9a-f]{2}/[0-9a-f]{64}"
    r"|runs/[0-9a-f]{32}/artifacts/[0-9a-f]{32}\.json"
    r"|runs/[0-9a-f]{32}/checkpoints/[0-9]{19}/[0-9a-f]{16}-[0-9]{6}-[0-9a-f]{32}\.json"
    r"|names/[0-9a-f]{32}/[0-9a-f]{32}/[0-9]{20}-[0-9a-f]{32}\.json"
    r"|staging/.*"
)
# No path, and nothing that a key is made of as it is: hashed, and shown as they are.
NAMES = ("../../x", "/etc/passwd", "n" * 1000, "größe 日本 🦆", "a\0b", "\u202egnp.exe", "x:v1")


def letters(rig: Rig) -> list[str]:
    """The reasons in the dead-letter topic."""
    assert rig.kafka is not None
    kept = KafkaDeadLetters(rig.kafka)
    try:
        return [letter.reason for letter in kept.read()]
    finally:
        kept.close()


def shown_names(store: PlainStore) -> set[str]:
    """The names in the manifests of a store."""
    return {json.loads(read(store, key))["name"] for key in store.sizes("runs/")}


def test_hostile_requests_leave_no_key_outside_the_layout(
    open_rig: OpenRig, bucket: S3Settings, fault_seed: int
) -> None:
    """Climbing names, false sizes, endless counts and half messages; an honest artifact arrives."""
    rng = random.Random(f"{fault_seed} hostile")
    rig = open_rig("kafka", s3=bucket, is_strict=False)
    assert rig.kafka is not None
    forger = Forger(rig.kafka)
    plain = rig.plain()
    with Observer(rig.plain()) as observer:
        worker = rig.start_worker(member="one")
        cases = list((manifests() | pieces()).items())
        rng.shuffle(cases)
        for number, (name, send) in enumerate(cases):
            content = f"{name} {number}".encode()
            send(forger, forge(content, name=f"hostile {number}", run_id=f"hostile-{number}"))
        for number, name in enumerate(NAMES):
            forger.send(
                forge(name.encode("utf-8", "surrogatepass"), name=name, run_id=f"n{number}")
            )
        forger.flush()
        rig.start_trainer([rig.calls.call("file", 3_000_000), rig.calls.call("folder")])
        rig.wait("the honest calls", lambda: rig.acknowledged() == 2)
        rig.start_agent()
        rig.wait("the odd names to be published", lambda: set(NAMES) <= shown_names(plain))
        verdict = finish(rig, observer)
        worker.check() if worker.is_running else None
    keys = plain.sizes()
    assert [key for key in keys if not LAYOUT.fullmatch(key)] == []
    assert set(NAMES) <= shown_names(plain)
    plain.close()
    wrong = [fault for fault in verdict.faults if "was never logged" not in fault]
    assert wrong == []
    told = letters(rig)
    print(f"{len(cases)} cases, {len(told)} dead letters")
    report.note("hostile requests", f"{len(cases)} of them", replace(verdict, faults=wrong))


def test_content_with_a_foreign_digest_is_never_stored_under_it(
    open_rig: OpenRig, bucket: S3Settings
) -> None:
    """Pieces fit their list, but the SHA-256 is another's: no blob and no manifest appears."""
    rig = open_rig("kafka", s3=bucket, is_strict=False)
    assert rig.kafka is not None
    forger, plain = Forger(rig.kafka), rig.plain()
    worker = rig.start_worker(member="one")
    wanted = hashlib.sha256(b"what a victim is going to log").hexdigest()
    honest = forge(b"what the forger has instead....", name="poison")
    evil = replace(
        honest.with_file(sha256=wanted), pieces={wanted: next(iter(honest.pieces.values()))}
    )
    forger.send(evil.with_chunks(sha256=wanted))
    forger.flush()
    rig.wait("the worker to look at it", lambda: rig.lag() == 0)
    keys = plain.sizes()
    assert blob_of(wanted) not in keys
    assert not any(key.startswith("runs/") for key in keys)
    worker.stop()
    plain.close()


def mixed(honest: Forgery) -> Forgery:
    """The same pieces mixed with false ones of the same numbers, before or after the true ones."""
    chunks = []
    for number, chunk in enumerate(honest.chunks):
        evil = replace(chunk, payload=bytes(len(chunk.payload)))
        evil = replace(evil, digest=hashlib.sha256(evil.payload).digest())
        chunks += [(chunk,), (evil, chunk), (chunk, evil)][number % 3]
    return replace(honest, chunks=tuple(chunks))


def failures(rig: Rig) -> dict[str, str]:
    """The published reasons why artifacts failed."""
    assert rig.kafka is not None
    events = [codec.decode(message.value) for message in read_topic(rig.kafka, "artifact")]
    told = [event for event in events if isinstance(event, ArtifactEvent)]
    return {event.artifact: str(event.reason) for event in told if event.event == "failed"}


def test_artifact_that_cannot_be_finished_fails_and_leaves_nothing(
    open_rig: OpenRig, bucket: S3Settings
) -> None:
    """Whoever may write into the topics can prevent an artifact, never corrupt it: it fails with a
    reason after the set time at the latest, and its pieces are deleted, as are those without an
    event."""
    rig = open_rig("kafka", s3=bucket, is_strict=False)
    assert rig.kafka is not None
    forger, plain, rng = Forger(rig.kafka), rig.plain(), random.Random(5)
    spoiled = mixed(forge(rng.randbytes(40 * PIECE_BYTES + 1), name="spoiled"))
    given_up = forge(rng.randbytes(20 * PIECE_BYTES), name="given up")
    with Observer(rig.plain()) as observer:
        worker = rig.start_worker(member="one", batch_age_s=2.0)
        forger.send(spoiled)
        forger.send_chunks(given_up)
        forger.flush()
        rig.wait("the worker to take all", lambda: rig.lag() == 0)
        worker.stop()
        keys = plain.sizes()
        assert keys.keys() == plain.sizes("staging/").keys()
        assert given_up.artifact in {key.split("/")[1] for key in keys}
        time.sleep(1.1)
        worker = rig.start_worker(member="one", staging_s=1.0)
        rig.wait("nothing to be left", lambda: not (plain.sizes() or plain.unfinished()))
        worker.stop()
    assert observer.faults == []
    assert failures(rig).keys() == {spoiled.artifact}
    assert "log the artifact again" in failures(rig)[spoiled.artifact]
    plain.close()


@pytest.mark.parametrize("when", ["before", only_long("behind")])
def test_foreign_pieces_for_an_artifact_never_corrupt_it(
    when: str, open_rig: OpenRig, bucket: S3Settings, *, fault_seed: int
) -> None:
    """Other payloads under the id, digest and numbers of a transfer: it is whole, or has failed."""
    rng = random.Random(f"{fault_seed} others {when}")
    rig = open_rig("kafka", s3=bucket, is_strict=False)
    assert rig.kafka is not None
    forger, plain = Forger(rig.kafka), rig.plain()
    with Observer(rig.plain()) as observer:
        rig.start_trainer([rig.calls.call("file", LARGE_BYTES // 10)])
        rig.wait("the call", lambda: rig.acknowledged() == 1)
        rig.end_trainers()
        (call,) = rig.written().values()
        ((sha256, size),) = call.files.values()
        evil = forge(rng.randbytes(size), name="evil", artifact=call.artifact, run_id="run")
        evil = evil.with_chunks(sha256=sha256)
        if when == "before":
            forger.send_chunks(evil)
        assert rig.start_agent().wait_for_end() == 0
        if when == "behind":
            forger.send_chunks(evil)
        worker = rig.start_worker(member="one")
        rig.wait("the worker to take all", lambda: rig.lag() == 0)
        rig.wait("an end", lambda: bool(plain.sizes("runs/") or call.artifact in failures(rig)))
        worker.stop()
        observer.look()
    # Whatever is visible was hashed by the observer.
    assert observer.faults == []
    assert set(observer.seen) == set(plain.sizes("runs/"))
    print(f"pieces of another {when}: {failures(rig) or 'whole'}")
    plain.close()


def test_forged_event_does_not_replace_the_honest_artifact(
    open_rig: OpenRig, bucket: S3Settings
) -> None:
    """An event with another list of files under the same id: the honest artifact arrives."""
    rig = open_rig("kafka", s3=bucket, is_strict=False)
    assert rig.kafka is not None
    forger = Forger(rig.kafka)
    with Observer(rig.plain()) as observer:
        rig.start_trainer([rig.calls.call("file", 3_000_000)])
        rig.wait("the call", lambda: rig.acknowledged() == 1)
        (call,) = rig.written().values()
        evil = forge(b"never sent", name="evil", artifact=call.artifact, run_id="run")
        event = replace(evil.event, manifest=evil.text())
        forger.raw("artifact", call.artifact, codec.encode(event))
        forger.flush()
        rig.start_worker(member="one")
        rig.start_agent()
        verdict = finish(rig, observer)
    report.note("an event for a foreign artifact", "before", verdict)
    assert_whole(verdict)
