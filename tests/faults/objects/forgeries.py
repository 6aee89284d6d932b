"""Requests that no agent of ours sends: each a function that sends a bent copy of an honest one."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from faults.objects.forger import PIECE_BYTES, Forger, Forgery

PATHS = (
    "../../etc/passwd", "/etc/passwd", "a/../../b", "..", ".", "", "a//b", "C:\\x", "nul\0", "\n",
    "x" * 1000, "/".join(["d"] * 2000), "\ud800", "a/./b", "trailing/",
)  # fmt: skip
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
