"""Compares the ledgers with the store, read without our code, and with the views."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from faults.objects.ledger import Call
from faults.objects.observer import NOTHING, Seen, blob_of
from faults.objects.plain import PlainStore, read, sha256_of


@dataclass
class Verdict:
    """Figures of one campaign; `faults` says in words what must not be."""

    acknowledged: int = 0
    complete: int = 0  # of the acknowledged
    unacknowledged: int = 0
    there_all_the_same: int = 0  # of the unacknowledged, and complete
    bytes: int = 0
    kills: int = 0
    kills_amid: int = 0  # while something was on its way
    looks: int = 0
    left_in_staging: int = 0  # before the sweep
    left_unfinished: int = 0
    swept_blobs: int = 0
    faults: list[str] = field(default_factory=list)

    def __add__(self, other: Verdict) -> Verdict:
        names = [name for name in vars(self) if name != "faults"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Verdict(**sums, faults=self.faults + other.faults)


def judge(store: PlainStore, calls: dict[str, Call]) -> Verdict:
    """Read everything that is visible, hash all of it, and compare it with the ledgers."""
    verdict = Verdict()
    there = store.sizes()
    manifests = [Seen.parse(key, read(store, key)) for key in there if key.startswith("runs/")]
    _judge_contents(store, there, manifests, verdict)
    _judge_versions(store, there, manifests, verdict)
    by_artifact = Counter(seen.artifact for seen in manifests)
    verdict.faults += [f"{a} is there {n} times" for a, n in by_artifact.items() if n > 1]
    waiting = {call.artifact: call for call in calls.values() if call.is_acknowledged}
    open_calls = [call for call in calls.values() if not call.is_acknowledged]
    verdict.acknowledged, verdict.unacknowledged = len(waiting), len(open_calls)
    for seen in manifests:
        call = waiting.pop(seen.artifact, None)
        if call is None:
            call = next((c for c in open_calls if _is_of(seen, c)), None)
            if call is None:
                verdict.faults.append(f"{seen.key} ({seen.name!r}) was never logged")
                continue
            open_calls.remove(call)
            verdict.there_all_the_same += 1
        elif not _is_of(seen, call):
            verdict.faults.append(f"{seen.key} is not what {call.name} logged: {seen.files}")
        else:
            verdict.complete += 1
        verdict.bytes += sum(size for _, size in seen.files.values())
    verdict.faults += [f"{call.name} was acknowledged and is lost" for call in waiting.values()]
    return verdict


def _judge_contents(
    store: PlainStore, there: dict[str, int], manifests: list[Seen], verdict: Verdict
) -> None:
    wanted = {blob: size for seen in manifests for blob, size in seen.blobs.items()}
    for blob, size in wanted.items():
        if there.get(blob) != size:
            verdict.faults.append(f"{blob} has {there.get(blob)} bytes, its manifest says {size}")
        elif sha256_of(store, blob) != blob.rpartition("/")[2]:
            verdict.faults.append(f"{blob} has other content than its name says")


def _judge_versions(
    store: PlainStore, there: dict[str, int], manifests: list[Seen], verdict: Verdict
) -> None:
    """Every artifact has its version, and no version leads nowhere."""
    named: set[str] = set()
    for key in there:
        if key.startswith("names/"):
            entry: dict[str, Any] = json.loads(read(store, key))
            named.add(entry["manifest"])
            if entry["manifest"] not in there:
                verdict.faults.append(f"{key} is a version without a manifest")
    verdict.faults += [f"{s.key} has no version" for s in manifests if s.key not in named]


def _is_of(seen: Seen, call: Call) -> bool:
    """Whether the contents are the call's; a folder's under their paths as well."""
    if len(call.files) > 1:
        return seen.files == call.files
    return sorted(seen.files.values()) == sorted(call.files.values())


def judge_leftovers(store: PlainStore, verdict: Verdict) -> None:
    """After the set time: no part, no transfer, no content that nothing names."""
    there = store.sizes()
    manifests = [Seen.parse(key, read(store, key)) for key in there if key.startswith("runs/")]
    named = {blob for seen in manifests for blob in seen.blobs} | {blob_of(NOTHING)}
    for key in there:
        if key.startswith("blobs/") and key not in named:
            verdict.faults.append(f"{key} is named by no manifest after the sweep")
        elif not key.startswith(("blobs/", "runs/", "names/")):
            verdict.faults.append(f"{key} is left after the sweep")
    verdict.faults += [f"transfer {each} is left after the sweep" for each in store.unfinished()]


def judge_views(rows: list[tuple[str, str]], verdict: Verdict, published: set[str]) -> None:
    """Compare (artifact, state) of `v_artifacts` with the artifacts whose manifest is there."""
    states = dict(rows)
    if len(states) != len(rows):
        verdict.faults.append(f"v_artifacts has {len(rows) - len(states)} artifacts twice")
    for artifact in published:
        if states.get(artifact) != "complete":
            verdict.faults.append(
                f"{artifact} is in the store, its state is {states.get(artifact)}"
            )
    for artifact, state in states.items():
        if artifact not in published and state in ("complete", "pending"):
            verdict.faults.append(f"{artifact} is not in the store, its state is {state}")


def assert_whole(verdict: Verdict) -> None:
    """Nothing lost, nothing changed, nothing left."""
    assert verdict.faults[:20] == []
    assert verdict.complete == verdict.acknowledged > 0
