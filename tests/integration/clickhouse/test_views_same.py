"""The fast views, compared with plain ones on random histories with restarts, replays and deletes.

The plain views are those of migrations 0011 and 0012, under other names: they join every artifact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from random import Random
from typing import Any

import pytest

from runwire_consumers.clickhouse import migrate
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

SECOND = 1_000_000_000
PLAIN = ("0010_views_of_points", "0011_views_of_runs", "0012_views_of_objects")
VIEWS = ("v_artifacts", "v_artifact_uses", "v_checkpoints")
STATUSES = ("finished", "failed", "interrupted", "killed", "preempted")
RUNS = [(project, f"run-{number}") for project in ("a", "b") for number in range(4)]


@pytest.fixture
def unmerged(feed: Any) -> Iterator[Any]:
    """A feed whose tables are never merged, and the plain views beside the fast ones."""
    text = "\n".join(
        (resources.files(migrate.__package__) / "migrations" / f"{name}.sql").read_text()
        for name in PLAIN
    )
    for name in set(re.findall(r"VIEW \{database\}\.(\w+)", text)):
        text = re.sub(rf"(\{{database\}}\.){name}\b", rf"\1plain_{name}", text)
    words = migrate.words(feed.client.database, None)
    for statement in migrate.statements(text):
        migrate.execute(feed.client, statement.text, words, "plain views")
    tables = feed.rows("SELECT name FROM system.tables WHERE database = currentDatabase() "
                       "AND engine LIKE '%MergeTree'")  # fmt: skip
    for (table,) in tables:
        feed.client.command(f"SYSTEM STOP MERGES `{feed.client.database}`.{table}")
    yield feed
    for (table,) in tables:
        feed.client.command(f"SYSTEM START MERGES `{feed.client.database}`.{table}")


def random_events(random: Random, moment: int) -> list[Any]:
    """What one process of some run, attempt and rank said and did around a moment."""
    project, run_id = random.choice(RUNS)
    attempt, rank, twin = random.randrange(3), random.randrange(2), random.random() < 0.1
    who: dict[str, Any] = {
        "project": project,
        "run_id": run_id,
        "attempt": f"{run_id}-{attempt}",
        "rank": rank,
        "writer": f"{project}-{run_id}-{attempt}-{rank}{'-twin' * twin}",
        "at_ns": AT_NS + (moment + random.randrange(-90, 90)) * SECOND,
    }
    seq, step = random.randrange(1000), random.randrange(30) * 10
    artifact = f"{project}{run_id}{step}{rank}".ljust(32, "0")
    chain = {"attempt_number": attempt + 1, "first_attempt": f"{run_id}-0"}
    about = {
        "name": random.choice((None, f"name-{seq}")),
        "tags": random.choice((None, {"team": str(seq % 3), "kind": str(rank)})),
        "summary": random.choice((None, f'{{"loss": {seq}, "r{rank}": 1}}', "no JSON")),
        "environment": random.choice((None, {"python": f"3.{seq}"})),
        **(chain if random.random() < 0.7 else {}),
    }
    end = {"event": "finished", "status": random.choice(STATUSES), "accepted": seq}
    end |= {"status_reason": random.choice((None, "why")), "exit_code": random.choice((None, 1))}
    state = random.choice(("shipped", "complete", "complete", "failed", "deleted", "used"))
    stamp = {"version_at_ns": AT_NS + seq} if state == "complete" else {}
    name = {"name": f"model-{step % 3}", "type": "model", "artifact": artifact}
    text = {"stream": "histogram", "name": "w", "text": '{"edges": [0, 1], "counts": [1]}'}
    return random.choice((
        [run_event(seq=seq, **who, **about)],
        [run_event(seq=seq, **who, **about, resumed_from_step=step)],
        [run_event(seq=seq, **who, **end)],
        [run_event(seq=seq, **who, **end, reporter="agent")],
        [heartbeat(seq=seq, last_step=step, phase=random.choice(("train", "ended")),
                   dropped={"quota": seq}, **who)],
        [param_event(seq=seq, **who)],
        [log_event(seq=seq, **who), log_event(seq=seq + 1, step=step, **text, **who)],
        [metric_batch(3, first=step, batch_seq=seq,
                      **{key: value for key, value in who.items() if key != "at_ns"})],
        [checkpoint_event(seq=seq, step=step, artifact=artifact, is_best=random.random() < 0.5,
                          kind=random.choice(("full", "sharded")), world_size=2, **who)],
        [artifact_event(seq=seq, **name, **who),
         artifact_event(seq=seq + 1, event=state, **name, **who, **stamp,
                        aliases=random.choice((None, ["prod"])))],
    ))  # fmt: skip


def rows_of(feed: Any, view: str) -> list[str]:
    """Every row as text; what was gathered from several ranks has no order."""
    columns = [name for (name, *_) in feed.rows(f"DESCRIBE TABLE {view}")]
    parts = [f"arraySort({c})" if c == "artifacts" else f"`{c}`" for c in columns]
    return sorted(
        text for (text,) in feed.rows(f"SELECT toString(({', '.join(parts)})) FROM {view}")
    )


def test_fast_views_give_the_rows_of_plain_ones_on_random_histories(
    unmerged: Any, seed: int
) -> None:
    """The same rows after every phase, with late events and replays under other tokens."""
    random = Random(seed)
    written: list[tuple[list[Any], int]] = []
    for phase in range(3):
        moment = phase * 100
        events = [event for _ in range(60) for event in random_events(random, moment)]
        for part in (events[::2], events[1::2]):
            written.append((part, AT_NS + (moment + random.randrange(60)) * SECOND))
            unmerged.write(*part, append_at_ns=written[-1][1])
        unmerged.write(*written[0][0], append_at_ns=written[0][1])
        if phase == 1:
            project, run_id = random.choice(RUNS)
            unmerged.client.command(
                "INSERT INTO deleted_runs (project, run_id, deleted_at) "
                f"VALUES ('{project}', '{run_id}', now64(3))"
            )
        for view in VIEWS:
            assert rows_of(unmerged, view) == rows_of(unmerged, f"plain_{view}"), view
