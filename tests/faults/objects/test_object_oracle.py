"""Controls of the harness: a tampered store, and an agent that publishes too early."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.objects import report
from faults.objects.conftest import OpenRig
from faults.objects.finish import finish
from faults.objects.observer import Observer
from faults.objects.plain import PlainFolder, PlainStore, read
from faults.objects.rig import Rig
from faults.objects.verdict import Verdict, assert_whole, judge, judge_leftovers, judge_views

pytestmark = pytest.mark.engine

# Puts the manifest into the store before the content, then continues as it should.
EARLY = """
import sys, time
from runwire_agent.upload import direct
from runwire_agent.upload.contents import hash_entry, manifest_of
from runwire_agent.upload.progress_note import ProgressNote
upload = direct.DirectTransport.upload
def early(self, claim, tell):
    store = self._stores.get(claim.request)
    note, files = ProgressNote.open(claim.folder), claim.request.files
    entries = [hash_entry(claim.folder, file, note, self._pace) for file in files]
    manifest = manifest_of(claim.request, entries).versioned(time.time_ns())
    store.put(manifest.key, manifest.to_json())
    time.sleep(1.5)
    upload(self, claim, tell)
direct.DirectTransport.upload = early
from runwire_agent.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def some_run(rig: Rig) -> None:
    """A run with a file, a folder and a checkpoint."""
    kinds = [("file", 3_000_000), ("folder", 0), ("checkpoint", 40_000)]
    rig.start_trainer([rig.calls.call(kind, size) for kind, size in kinds])
    rig.wait("the calls", lambda: rig.acknowledged() == len(kinds))


def test_observer_notices_a_manifest_published_too_early(open_rig: OpenRig) -> None:
    """The store is in order in the end, so only continuous observation can see it."""
    rig = open_rig("direct", kafka=False)
    with Observer(rig.plain()) as observer:
        some_run(rig)
        rig.start_agent(program=EARLY)
        verdict = finish(rig, observer)
    report.note("control: manifest before content", "direct, folder", verdict)
    assert verdict.complete == verdict.acknowledged
    early = [fault for fault in verdict.faults if " is visible, " in fault]
    assert early
    # The early manifest also keeps `publish` from giving the artifact a version.
    assert all(f in early or f.endswith(" has no version") for f in verdict.faults)


def a_blob(store: PlainStore) -> str:
    return max(store.sizes("blobs/").items(), key=lambda item: item[1])[0]


def a_manifest(store: PlainStore) -> str:
    return min(store.sizes("runs/"))


def change_a_byte(store: PlainStore) -> None:
    data = bytearray(read(store, a_blob(store)))
    data[len(data) // 2] ^= 1
    store.put(a_blob(store), bytes(data))


def cut_a_blob(store: PlainStore) -> None:
    store.put(a_blob(store), read(store, a_blob(store))[:-1])


def drop_a_blob(store: PlainStore) -> None:
    store.remove([a_blob(store)])


def drop_a_manifest(store: PlainStore) -> None:
    store.remove([a_manifest(store)])


def copy_a_manifest(store: PlainStore) -> None:
    fields = json.loads(read(store, a_manifest(store)))
    fields["artifact"] = "f" * 32
    store.put(f"runs/x/artifacts/{'f' * 32}.json", json.dumps(fields).encode())


def change_a_path(store: PlainStore) -> None:
    key = next(k for k in store.sizes("runs/") if len(json.loads(read(store, k))["files"]) > 1)
    fields = json.loads(read(store, key))
    fields["files"][0]["path"] += "2"
    store.put(key, json.dumps(fields).encode())


def drop_versions(store: PlainStore) -> None:
    store.remove(list(store.sizes("names/")))


def leave_a_part(store: PlainStore) -> None:
    store.put(f"staging/{'a' * 32}/{'b' * 64}/00000000-000016-{'c' * 64}", b"part")


def leave_a_blob(store: PlainStore) -> None:
    store.put(f"blobs/dd/{'d' * 64}", b"what nothing names")


def leave_a_transfer(store: PlainStore) -> None:
    store.put(".tmp/transfer", b"half")


TAMPERINGS: dict[Callable[[PlainStore], None], str] = {
    change_a_byte: "has other content than its name says",
    cut_a_blob: "its manifest says",
    drop_a_blob: "its manifest says",
    drop_a_manifest: "was acknowledged and is lost",
    copy_a_manifest: "was never logged",
    change_a_path: "is not what",
    drop_versions: "has no version",
    leave_a_part: "is left after the sweep",
    leave_a_blob: "is named by no manifest",
    leave_a_transfer: "is left after the sweep",
}


def judged(store: PlainStore, rig: Rig) -> Verdict:
    verdict = judge(store, rig.written())
    judge_leftovers(store, verdict)
    return verdict


def test_verdict_notices_every_way_of_tampering(open_rig: OpenRig, tmp_path: Path) -> None:
    """A store in order has no fault; each way of changing it gives one."""
    rig = open_rig("direct", kafka=False)
    some_run(rig)
    rig.drain()
    assert_whole(judged(rig.plain(), rig))
    for number, (tamper, fault) in enumerate(TAMPERINGS.items()):
        shutil.copytree(rig.root / "objects", tmp_path / str(number))
        store = PlainFolder(tmp_path / str(number))
        tamper(store)
        faults = judged(store, rig).faults
        assert any(fault in said for said in faults), (tamper, faults)


def test_verdict_notices_views_that_differ_from_the_store() -> None:
    """An artifact that the view calls incomplete, and one that only the view has."""
    verdict = Verdict()
    judge_views([("a", "complete"), ("b", "failed")], verdict, {"a"})
    assert verdict.faults == []
    judge_views([("a", "pending"), ("b", "complete"), ("b", "complete")], verdict, {"a"})
    assert len(verdict.faults) == 3
