"""A malicious producer on the Kafka route: refused or harmless, and nobody else is hurt.

The object worker lives on, nothing appears that was not sent whole, no key leaves the layout, no
content lies under another's digest, and an honest artifact behind all of it arrives.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from faults.objects import report
from faults.objects.conftest import OpenRig
from faults.objects.contents import LARGE_BYTES
from faults.objects.finish import finish
from faults.objects.forger import PIECE_BYTES, Forger, Forgery, forge
from faults.objects.observer import Observer, blob_of
from faults.objects.plain import read, sha256_of
from faults.objects.rig import Rig
from faults.objects.verdict import assert_whole
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters
from runwire_schemas import codec
from runwire_schemas.s3_settings import S3Settings

pytestmark = pytest.mark.engine

LAYOUT = re.compile(
    r"blobs/[0-9a-f]{2}/[0-9a-f]{64}"
    r"|runs/[0-9a-f]{32}/artifacts/[0-9a-f]{32}\.json"
    r"|runs/[0-9a-f]{32}/checkpoints/[0-9]{19}/[0-9a-f]{16}-[0-9]{6}-[0-9a-f]{32}\.json"
    r"|names/[0-9a-f]{32}/[0-9a-f]{32}/[0-9]{20}-[0-9a-f]{32}\.json"
    r"|staging/.*"
)
PATHS = (
    "../../etc/passwd", "/etc/passwd", "a/../../b", "..", ".", "", "a//b", "C:\\x", "nul\0", "\n",
    "x" * 1000, "/".join(["d"] * 2000), "\ud800", "a/./b", "trailing/",
)  # fmt: skip
# No path, and nothing that a key is made of as it is: hashed, and shown as they are.
NAMES = ("../../x", "/etc/passwd", "n" * 1000, "größe 日本 🦆", "a\0b", "\u202egnp.exe", "x:v1")
HUGE = 2**62
FACTS: dict[str, Any] = {
    "step": 7, "kind": "full", "world_size": 1, "metrics": {}, "is_best": False, "duration_s": 0.0,
    "blocked_s": 0.0, "raw_bytes": 0, "retention": {},
}  # fmt: skip

Send = Callable[[Forger, Forgery], None]


def manifests() -> dict[str, Send]:
    """Events whose list of files is not what it should be."""
    cases: dict[str, Send] = {}

    def case(name: str, bend: Callable[[Forgery], Forgery]) -> None:
        cases[f"{len(cases)} {name}"] = lambda forger, honest: forger.send(bend(honest))

    def text(name: str, made: str | Callable[[Forgery], str]) -> None:
        cases[f"{len(cases)} {name}"] = lambda forger, honest: forger.send(
            honest, text=made if isinstance(made, str) else made(honest)
        )

    for path in PATHS:
        case(f"path {path[:20]!r}", lambda h, p=path: h.with_file(path=p))
    for size in (0, 1, -1, HUGE, -HUGE, 10**400, 1.5, True, "7", None):
        case(f"size {str(size)[:20]}", lambda h, s=size: h.with_file(size=s))
    for sha256 in ("../../../x", "A" * 64, "g" * 64, "", "0" * 63, 7, None):
        case(f"digest {sha256!r:.12}", lambda h, s=sha256: h.with_file(sha256=s))
    for artifact in ("../" * 10, "", "A" * 32, "0" * 33, "sweep"):
        case(f"id {artifact[:9]!r}", lambda h, a=artifact: _renamed(h, a))
    twice = [{"path": "same", "size": 1, "sha256": "0" * 64, "uri": ""}] * 2
    case("two files of one path", lambda h: h.with_manifest(files=twice))
    case("no files", lambda h: h.with_manifest(files={}))
    case("files of another shape", lambda h: h.with_manifest(files=[["a"], 1, None]))
    for field, value in (
        ("rank", -1), ("rank", "x"), ("created_at_ns", HUGE * HUGE), ("attempt", None),
        ("aliases", 7), ("metadata", "x"), ("project", "other"), ("run_id", "other"),
        ("artifact", "f" * 32), ("format", 99), ("checkpoint", []), ("rank", 2**40),
        ("name", "\ud800"), ("name", 7), ("type", "\udfff"), ("aliases", ["\ud800"]),
        ("writer", {}), ("version_at_ns", HUGE * HUGE), ("route", None), ("unknown", 1),
    ):  # fmt: skip
        case(f"{field} {value!r:.12}", lambda h, f=field, v=value: h.with_manifest(**{f: v}))
    for field, value in (
        ("step", -1), ("step", HUGE * HUGE), ("step", "x"), ("kind", "evil"), ("world_size", -5),
        ("retention", "x"), ("retention", {"keep_last": "x"}), ("retention", {"keep_last": -1}),
        ("metrics", 7), ("metrics", {"a": "b"}), ("is_best", 3), ("duration_s", "x"),
    ):  # fmt: skip
        facts = FACTS | {field: value}
        case(f"{field} {value!r:.20}", lambda h, f=facts: h.with_manifest(checkpoint=f))
    text("no list", "")
    text("no JSON", "{" * 9)
    text("deep JSON", "[" * 100_000)
    text("long number", "9" * 1_000_000)
    text("null", "null")
    text("other pieces", lambda h: h.text(piece_bytes=1))
    text("pieces of no size", lambda h: h.text(piece_bytes=0))
    text("no digests", lambda h: h.text(pieces={}))
    text("digests that are no base64", lambda h: h.text(pieces=dict.fromkeys(h.pieces, "%%%")))
    text("half a digest", lambda h: h.text(pieces=dict.fromkeys(h.pieces, "AAAA")))
    many = base64.b64encode(bytes(32) * 100_000).decode()
    text("a hundred thousand digests", lambda h: h.text(pieces=dict.fromkeys(h.pieces, many)))
    return cases


def pieces() -> dict[str, Send]:
    """Pieces that belong to nothing, and messages that are none."""
    cases: dict[str, Send] = {}
    for field, value in (
        ("count", HUGE), ("count", 0), ("count", -1), ("index", HUGE), ("index", -1), ("index", 3),
        ("file_bytes", HUGE), ("file_bytes", 0), ("file_bytes", -1), ("digest", b""),
        ("digest", bytes(32)), ("payload", b""), ("payload", bytes(PIECE_BYTES + 1)),
        ("sha256", "../" * 20), ("sha256", "A" * 64), ("artifact", "../../x"), ("artifact", ""),
    ):  # fmt: skip
        about = {field: value}
        cases[f"{len(cases)} {field} {value!r:.12} of a piece"] = lambda forger, honest, a=about: (
            forger.send_chunks(honest.with_chunks(**a))
        )
    cases["no Avro"] = lambda forger, honest: (
        [
            forger.raw(kind, honest.artifact, value)
            for kind in ("chunk", "artifact")
            for value in (b"", b"\0", b"{}", bytes(5) + b"\xff" * 5000)
        ]
        and None
    )
    return cases


def _renamed(honest: Forgery, artifact: str) -> Forgery:
    """The same under another id everywhere."""
    bent = honest.with_manifest(artifact=artifact).with_chunks(artifact=artifact)
    return replace(bent, event=replace(honest.event, artifact=artifact))


def letters(rig: Rig) -> list[str]:
    """The reasons in the dead-letter topic."""
    assert rig.kafka is not None
    kept = KafkaDeadLetters(rig.kafka)
    try:
        return [letter.reason for letter in kept.read()]
    finally:
        kept.close()


def test_hostile_requests(open_rig: OpenRig, bucket: S3Settings, fault_seed: int) -> None:
    """Names that climb, sizes that lie, counts without end, digests of nothing, half a message."""
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
        verdict = finish(rig, observer)
        worker.check() if worker.is_running else None
    keys = plain.sizes()
    assert [key for key in keys if not LAYOUT.fullmatch(key)] == []
    shown = {json.loads(read(plain, key))["name"] for key in keys if key.startswith("runs/")}
    assert set(NAMES) <= shown
    plain.close()
    wrong = [fault for fault in verdict.faults if "was never logged" not in fault]
    assert wrong == []
    told = letters(rig)
    print(f"{len(cases)} cases, {len(told)} dead letters")
    report.note("hostile requests", f"{len(cases)} of them", replace(verdict, faults=wrong))


def test_content_under_the_digest_of_another(open_rig: OpenRig, bucket: S3Settings) -> None:
    """Pieces that fit their list, under a SHA-256 that is not theirs: nothing takes its place."""
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


def test_pieces_of_another_among_honest_ones(open_rig: OpenRig, bucket: S3Settings) -> None:
    """One batch with both: the honest pieces make the file, whichever came first."""
    rig = open_rig("kafka", s3=bucket, is_strict=False)
    assert rig.kafka is not None
    forger, plain = Forger(rig.kafka), rig.plain()
    content = random.Random(5).randbytes(40 * PIECE_BYTES + 1)
    honest = forge(content, name="honest")
    for number, chunk in enumerate(honest.chunks):
        evil = replace(chunk, payload=bytes(len(chunk.payload)))
        evil = replace(evil, digest=hashlib.sha256(evil.payload).digest())
        order = {0: (evil, chunk), 1: (chunk, evil), 2: (chunk,)}
        for each in order[number % 3]:
            forger.raw("chunk", honest.artifact, codec.encode(each))
    forger.send(replace(honest, chunks=()))
    forger.flush()
    worker = rig.start_worker(member="one", batch_age_s=2.0)
    (entry,) = honest.manifest["files"]
    rig.wait("the artifact", lambda: blob_of(entry["sha256"]) in plain.sizes())
    assert sha256_of(plain, blob_of(entry["sha256"])) == entry["sha256"]
    worker.stop()
    plain.close()


@pytest.mark.parametrize("when", ["before", "behind"])
def test_pieces_for_the_artifact_of_another(
    when: str, open_rig: OpenRig, bucket: S3Settings, *, fault_seed: int
) -> None:
    """Other payloads under the id, digest and numbers of a transfer that is under way."""
    rng = random.Random(f"{fault_seed} others {when}")
    rig = open_rig("kafka", s3=bucket, is_strict=False)
    assert rig.kafka is not None
    forger = Forger(rig.kafka)
    with Observer(rig.plain()) as observer:
        rig.start_trainer([rig.calls.call("file", LARGE_BYTES // 10)])
        rig.wait("the call", lambda: rig.acknowledged() == 1)
        (call,) = rig.written().values()
        ((sha256, size),) = call.files.values()
        evil = forge(rng.randbytes(size), name="evil", artifact=call.artifact, run_id="run")
        evil = evil.with_chunks(sha256=sha256)
        if when == "before":
            forger.send_chunks(evil)
        agent = rig.start_agent()
        if when == "behind":
            rig.end_trainers()
            assert agent.wait_for_end() == 0
            forger.send_chunks(evil)
        rig.start_worker(member="one")
        verdict = finish(rig, observer)
    report.note("pieces for the artifact of another", when, verdict)
    assert_whole(verdict)


def test_an_event_for_the_artifact_of_another(open_rig: OpenRig, bucket: S3Settings) -> None:
    """A list of other files under the id of a transfer: the honest one comes, and counts."""
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
    report.note("an event for the artifact of another", "before", verdict)
    assert_whole(verdict)
