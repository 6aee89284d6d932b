"""The end of a campaign: everything is restarted and drained, time passes, then it is judged."""

from __future__ import annotations

import time

import pytest

from faults.objects.observer import Observer
from faults.objects.plain import PlainStore
from faults.objects.rig import IMPATIENT, Rig
from faults.objects.verdict import Verdict, judge, judge_leftovers, judge_views
from runwire_consumers.clickhouse.client import connect
from runwire_store.open import open_store
from runwire_store.sweep import sweep

_STATES = "SELECT artifact, state FROM v_artifacts"


def finish(
    rig: Rig, observer: Observer, url: str = "", *, kills: tuple[int, int] = (0, 0)
) -> Verdict:
    """Drain, tidy, sweep and judge; with the `url` of a database the views as well."""
    rig.drain()
    store = rig.plain()
    try:
        verdict = judge(store, rig.written())
        verdict.kills, verdict.kills_amid = kills
        _judge_outbox(rig, verdict)
        if url:
            _judge_history(rig, url, store, verdict)
        verdict.left_in_staging = len(store.sizes("staging/"))
        verdict.left_unfinished = len(store.unfinished())
        verdict.swept_blobs = sweep_all(rig)
        observer.look()
        judge_leftovers(store, verdict)
        # What nothing names is gone; what somebody named is as it was.
        verdict.faults += judge(store, rig.written()).faults
    finally:
        store.close()
    verdict.looks = observer.looks
    verdict.faults += observer.faults
    return verdict


def sweep_all(rig: Rig) -> int:
    """Sweep as if the set times had passed; how many blobs went."""
    store = open_store(rig.s3, rig.root)
    try:
        with pytest.MonkeyPatch.context() as patch:
            # Nothing is being published any more, and the hour in which it could be is over.
            patch.setattr("runwire_store.sweep.PIN_S", -3600.0)
            report = sweep(store, grace_s=0, staging_s=0, now_ns=time.time_ns() + int(3600e9))
    finally:
        store.close()
    assert report.unreadable == {}
    return len(report.blobs)


def _judge_outbox(rig: Rig, verdict: Verdict) -> None:
    """What is left was never committed, and goes when its time has come."""
    for root in sorted(rig.folder.glob("root*")):
        left = rig.outbox(root)
        for name in left:
            if name.startswith("failed-"):
                reason = (root / "outbox" / name / "reason.txt").read_text()
                verdict.faults.append(f"the outbox gave up {name}: {reason}")
            elif (root / "outbox" / name / "request.json").exists():
                verdict.faults.append(f"the outbox still has {name}")
        if left:
            assert rig.start_agent(root=root, program=IMPATIENT).wait_for_end() == 0
        verdict.faults += [f"the outbox keeps {name} for ever" for name in rig.outbox(root)]


def _judge_history(rig: Rig, url: str, store: PlainStore, verdict: Verdict) -> None:
    published = {
        key.rpartition("/")[2].removesuffix(".json").rpartition("-")[2]
        for key in store.sizes("runs/")
    }
    client = connect(url)
    worker = rig.start_history(url)

    def states() -> list[tuple[str, str]]:
        return [(str(a), str(s)) for a, s in client.query(_STATES).result_rows]

    def is_in_view() -> bool:
        worker.check()
        return published <= {artifact for artifact, state in states() if state == "complete"}

    try:
        rig.wait("v_artifacts to know what the store has", is_in_view, every_s=0.2)
        worker.stop()
        judge_views(states(), verdict, published)
    finally:
        client.close()
