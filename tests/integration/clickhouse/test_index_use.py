"""Use of indexes by the public views, as EXPLAIN says it: a question reads what it names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from runwire_schemas.events import DeadLetter
from support.builders import (
    AT_NS,
    artifact_event,
    checkpoint_event,
    heartbeat,
    log_event,
    metric_batch,
    param_event,
    run_event,
)

pytestmark = pytest.mark.engine

# As conditions of a primary key say it: a set, as that of the deleted runs, reads otherwise.
PROJECT, RUN = "(project in ['tests', 'tests'])", "(run_id in ['run-1', 'run-1'])"
# Versions and `latest` of a name span the runs of a project; lineage spans projects.
WIDER = {
    ("v_artifacts", "artifact_stamps"): (PROJECT,),
    ("v_artifacts", "artifact_heads"): (PROJECT,),
    ("v_artifact_uses", "artifact_stamps"): ("(name_key in ",),
    ("v_artifact_uses", "artifact_heads"): ("(artifact in ",),
    # A letter that could not be decoded names no run, only its writer.
    ("v_completeness", "dead_letters"): (),
}
LETTER = DeadLetter(
    project="tests",
    run_id="run-1",
    id="letter",
    stream="metric",
    partition="0",
    offset=1,
    last_offset=1,
    at_ns=AT_NS,
    reason="why",
    points=1,
    key=b"writer",
    value=b"value",
)


@pytest.fixture
def filled(feed: Any) -> Any:
    """A row in every table: of an empty one nothing is planned."""
    used = artifact_event(event="used", artifact="b" * 32)
    done = artifact_event(event="complete", version_at_ns=5)
    told = [run_event(), heartbeat(), param_event(), artifact_event(), done, used]
    feed.write(*told, log_event(), checkpoint_event(), metric_batch(), LETTER)
    feed.write(run_event(attempt="attempt-2", writer="w2"), metric_batch(attempt="attempt-2"))
    return feed


def reads_of(feed: Any, query: str) -> Iterator[tuple[str, str, set[str]]]:
    """The tables that a query reads, with the condition on their key and the skip indexes used."""
    (text,) = feed.row(f"EXPLAIN json = 1, indexes = 1 {query}")
    plans = [json.loads(text)[0]["Plan"]]
    while plans:
        plan = plans.pop()
        plans += plan.get("Plans", [])
        if plan["Node Type"].startswith("ReadFromMergeTree"):
            indexes = plan.get("Indexes", [])
            keys = " ".join(i["Condition"] for i in indexes if i["Type"] == "PrimaryKey")
            skipped = {i["Name"] for i in indexes if i["Type"] == "Skip"}
            yield plan["Description"].rpartition(".")[2], keys, skipped


def test_question_about_one_run_reads_every_table_by_its_key(filled: Any) -> None:
    """No public view reads more of any table than the run, with the exceptions listed above."""
    views = {name for (name,) in filled.rows("SHOW TABLES LIKE 'v\\_%'")}
    for view in views:
        query = f"SELECT * FROM {view} WHERE project = 'tests' AND run_id = 'run-1'"
        reads = list(reads_of(filled, query))
        assert reads, view
        for table, keys, _ in reads:
            for condition in WIDER.get((view, table), (PROJECT, RUN)):
                assert condition in keys, (view, table, keys)


@pytest.mark.parametrize("view", ["v_metrics", "v_series"])
def test_question_about_one_curve_reads_points_by_metric_and_rank(filled: Any, view: str) -> None:
    """The whole beginning of the key is used."""
    query = (
        f"SELECT * FROM {view} "
        "WHERE project = 'tests' AND run_id = 'run-1' AND metric = 'loss' AND rank = 0"
    )
    found = [keys for table, keys, _ in reads_of(filled, query) if table == "metrics"]
    assert found
    for condition in (PROJECT, RUN, "(metric in ['loss', 'loss'])", "(rank in [0, 0])"):
        assert all(condition in keys for keys in found), condition


@pytest.mark.parametrize(("view", "table"), [("v_metrics", "metrics"), ("v_logs", "logs")])
def test_question_about_the_last_minutes_skips_older_rows(
    filled: Any, view: str, table: str
) -> None:
    """Rules about all runs name a time, which the index on `at` knows."""
    query = f"SELECT * FROM {view} WHERE at > toDateTime64('2023-11-14 22:13:00', 3, 'UTC')"
    found = [skipped for name, _, skipped in reads_of(filled, query) if name == table]
    assert found
    assert all("by_at" in skipped for skipped in found)


def test_question_about_one_name_skips_other_artifacts(filled: Any) -> None:
    """A filter on the name reaches the events through the grouping by artifact."""
    query = "SELECT * FROM v_artifacts WHERE project = 'tests' AND name = 'weights'"
    (skipped,) = (s for table, _, s in reads_of(filled, query) if table == "artifacts")
    assert "by_name" in skipped
