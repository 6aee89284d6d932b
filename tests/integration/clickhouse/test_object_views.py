"""v_artifacts, v_artifact_uses, v_checkpoints and v_histograms on inputs checked by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runwire_consumers.clickhouse.tombstones import hide_run
from runwire_consumers.housekeeping.purge import wait_until_purged
from runwire_store.announce import artifact_event as artifact_event_of
from runwire_store.catalog import Catalog
from runwire_store.folder.store import FolderStore
from runwire_store.releasing import delete_objects
from support.builders import AT_NS, artifact_event, checkpoint_event, log_event, run_event
from support.stored import put_artifact

README = Path(__file__).parents[3] / "schemas/README.md"

pytestmark = pytest.mark.engine

SECOND = 1_000_000_000
A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def done(artifact: str, stamp: int, **overrides: Any) -> Any:
    said = {"event": "complete", "version_at_ns": stamp, "uri": f"s3://b/{artifact}"}
    return artifact_event(artifact=artifact, at_ns=AT_NS + 2 * SECOND, **{**said, **overrides})


def test_artifact_state_follows_its_events(feed: Any) -> None:
    """Each event moves the state; fields that an event leaves out keep their value."""
    state = "SELECT state, uri, reason, aliases, version FROM v_artifacts"
    feed.write(artifact_event(aliases=["prod"]))
    assert feed.row(state) == ("pending", "", None, ["prod"], None)
    feed.write(artifact_event(event="shipped", route="kafka"))
    assert feed.row(state) == ("pending", "", None, ["prod"], None)
    feed.write(done(A, 5))
    assert feed.row(state) == ("complete", f"s3://b/{A}", None, ["latest", "prod"], 0)
    feed.write(artifact_event(event="deleted", reason="keep_last=2"))
    assert feed.row(state) == ("deleted", f"s3://b/{A}", "keep_last=2", ["prod"], 0)


def test_artifact_is_complete_when_a_later_transfer_succeeds(feed: Any) -> None:
    """A failed artifact that is shipped again is complete, in whatever order the events arrive."""
    feed.write(done(A, 5))
    feed.write(artifact_event(event="failed", reason="no room"), artifact_event())
    assert feed.row("SELECT state FROM v_artifacts") == ("complete",)


def test_artifact_versions_are_numbered_by_their_stamps(feed: Any) -> None:
    """Equal stamps are one version; other names and incomplete artifacts do not count."""
    feed.write(done(B, 7), done(A, 5), done(C, 7, run_id="run-2"))
    feed.write(done("d" * 32, 6, name="other"), artifact_event(artifact="e" * 32))
    rows = feed.rows("SELECT artifact, version, has(aliases, 'latest') FROM v_artifacts ORDER BY 1")
    assert rows == [
        (A, 0, 0),
        (B, 1, 1),
        (C, 1, 1),
        ("d" * 32, 0, 1),
        ("e" * 32, None, 0),
    ]


def test_artifact_versions_keep_their_numbers_after_a_run_is_deleted(
    feed: Any, tmp_path: Path
) -> None:
    """Store and view both count deleted versions, so they agree on v1, v2 and latest."""
    store = FolderStore(tmp_path / "objects")
    for number, run_id in enumerate(("run-1", "run-2", "run-3"), start=1):
        made = put_artifact(store, number, project="tests", run_id=run_id)
        feed.write(run_event(run_id=run_id), artifact_event_of(made, "complete", at_ns=AT_NS))
    view = "SELECT run_id, version, aliases FROM v_artifacts ORDER BY version"
    assert [row[:2] for row in feed.rows(view)] == [("run-1", 0), ("run-2", 1), ("run-3", 2)]
    for gone, left in (
        ("run-1", [("run-2", 1, []), ("run-3", 2, ["latest"])]),
        ("run-3", [("run-2", 1, ["latest"])]),
    ):
        delete_objects(store, "tests", gone)
        hide_run(feed.client, "tests", gone)
        wait_until_purged(feed.client, [("tests", gone)], lambda *_: None)
        known = Catalog(store).artifacts("tests")
        told = [(each.manifest.run_id, each.number, list(each.aliases)) for each in known]
        assert feed.rows(view) == sorted(told) == left
    made = put_artifact(store, 4, project="tests", run_id="run-4")
    feed.write(artifact_event_of(made, "complete", at_ns=AT_NS))
    assert Catalog(store).resolve("data", "tests").number == 3
    assert feed.row(view + " DESC LIMIT 1")[:2] == ("run-4", 3)
    assert feed.rows("SELECT * FROM artifacts WHERE run_id IN ('run-1', 'run-3')") == []


def test_artifact_with_two_stamps_is_one_version(feed: Any) -> None:
    """If two processes publish it at once, the first stamp counts, as in the store."""
    feed.write(done(A, 5), done(B, 9))
    feed.write(artifact_event(artifact=B, event="deleted", version_at_ns=7))
    feed.write(done(B, 9), done(C, 8))
    rows = feed.rows("SELECT artifact, version FROM v_artifacts ORDER BY 1")
    assert rows == [(A, 0), (B, 1), (C, 2)]


def test_artifact_uses_name_producer_and_user(feed: Any) -> None:
    """A row of v_artifact_uses names the run that used an artifact and the run that produced it."""
    feed.write(done(A, 5))
    feed.write(artifact_event(event="used", run_id="run-2"))
    assert feed.row("SELECT run_id, name, version, produced_by FROM v_artifact_uses") == (
        "run-2",
        "weights",
        0,
        "run-1",
    )
    assert feed.rows("SELECT run_id, state FROM v_artifacts") == [("run-1", "complete")]


def test_checkpoint_has_the_state_of_its_artifact(feed: Any) -> None:
    """The state of a checkpoint follows the events of the artifact that holds it."""
    view = "SELECT state, uri, is_best, metrics FROM v_checkpoints"
    feed.write(run_event(), checkpoint_event(is_best=True, metrics={"loss": math.inf}))
    assert feed.row(view) == ("pending", "file:///c/state.pt", 0, {"loss": math.inf})
    feed.write(artifact_event(), done(A, 5))
    assert feed.row(view) == ("complete", f"s3://b/{A}", 0, {"loss": math.inf})


def test_checkpoint_with_nan_metric_is_never_the_best(feed: Any) -> None:
    """As in the store: with a NaN in any metric, the checkpoint marked before stays the best."""
    for step, artifact, loss in ((10, A, 1.0), (20, B, math.nan)):
        said = {"step": step, "artifact": artifact, "at_ns": AT_NS + step * SECOND}
        metrics = {"loss": loss, "acc": 0.5}
        feed.write(checkpoint_event(is_best=True, metrics=metrics, **said), done(artifact, step))
    assert feed.rows("SELECT step, is_best FROM v_checkpoints ORDER BY step") == [(10, 1), (20, 0)]


def test_sharded_checkpoint_is_complete_when_every_rank_is(feed: Any) -> None:
    """It is complete once all ranks that took part are, and its size is the sum of theirs."""
    for rank, artifact in enumerate((A, B)):
        who = {"rank": rank, "artifact": artifact, "writer": f"w{rank}"}
        feed.write(checkpoint_event(kind="sharded", world_size=2, **who), artifact_event(**who))
    view = "SELECT state, ranks, bytes FROM v_checkpoints"
    feed.write(done(B, 5, rank=1))
    assert feed.row(view) == ("pending", 2, 200)
    feed.write(done(A, 6))
    assert feed.row(view) == ("complete", 2, 200)


def test_best_checkpoint_is_the_last_complete_one_marked_best(feed: Any) -> None:
    """Of the marked checkpoints the last complete one is best; a step saved again counts once."""
    for number, artifact in enumerate((A, B, C)):
        at_ns = AT_NS + number * SECOND
        step = {0: 10, 1: 20, 2: 20}[number]
        feed.write(checkpoint_event(artifact=artifact, step=step, at_ns=at_ns, is_best=True))
    feed.write(done(A, 5))
    assert feed.rows("SELECT step, state, is_best FROM v_checkpoints ORDER BY step") == [
        (10, "complete", 1),
        (20, "pending", 0),
    ]
    feed.write(done(C, 6))
    assert feed.rows("SELECT step, is_best, artifacts FROM v_checkpoints ORDER BY step") == [
        (10, 0, [A]),
        (20, 1, [C]),
    ]


def test_checkpoint_after_the_resume_step_is_marked_abandoned(feed: Any, attempts: Any) -> None:
    """Attempt 2 resumed from step 10: later checkpoints of attempt 1 are kept and marked."""
    feed.write(*attempts)
    feed.write(
        run_event(seq=1, event="updated", status=None, attempt="attempt-2", writer="w2",
                  resumed_from_step=10),
        checkpoint_event(step=10), checkpoint_event(step=20, artifact=B),
        checkpoint_event(step=20, artifact=C, attempt="attempt-2", writer="w2"),
    )  # fmt: skip
    rows = feed.rows("SELECT attempt, step, is_abandoned FROM v_checkpoints ORDER BY 1, 2")
    assert rows == [(1, 10, 0), (1, 20, 1), (2, 20, 0)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 9.0])
def test_documented_query_finds_the_last_good_checkpoint_before_a_fault(
    feed: Any, points: Callable[..., Any], bad: float
) -> None:
    """It finds the checkpoint before a NaN, an overflow or a spike."""
    (query,) = re.findall(
        r"```sql\n(WITH \(\n    SELECT minOrNull.*?)```", README.read_text(), re.S
    )
    query = query.replace("'r1'", "'run-1'")
    for step, artifact in ((10, A), (20, B), (30, C)):
        feed.write(checkpoint_event(step=step, artifact=artifact), done(artifact, step))
    curve = [(n, n, 2.0 - n / 100) for n in range(40)]
    feed.write(run_event(), points(curve, name="train/loss"))
    assert feed.row(query)[0] == 30
    feed.write(points([(40, 25, bad)], name="train/loss"))
    assert feed.row(query)[0::3] == (20, 25)


def test_histograms_are_in_their_view_and_not_in_v_logs(feed: Any) -> None:
    """A histogram is a row of v_histograms and does not appear among the log lines."""
    text = '{"edges": [0.0, 0.5, 1.0], "counts": [3, 4]}'
    feed.write(
        log_event(stream="histogram", name="weights/w0", step=7, text=text), log_event(seq=4)
    )
    assert feed.row("SELECT name, step, edges, counts FROM v_histograms") == (
        "weights/w0",
        7,
        [0.0, 0.5, 1.0],
        [3.0, 4.0],
    )
    assert feed.rows("SELECT stream FROM v_logs") == [("stdout",)]


def test_object_views_hide_deleted_runs(feed: Any) -> None:
    """After a run is deleted none of the views of artifacts and checkpoints shows it."""
    feed.write(run_event(), checkpoint_event(), artifact_event(), artifact_event(event="used"))
    hide_run(feed.client, "tests", "run-1")
    for view in ("v_artifacts", "v_checkpoints", "v_artifact_uses"):
        assert feed.rows(f"SELECT run_id FROM {view}") == []
