"""The questions that people, dashboards and rules ask each public view, and their bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# What an answer is about. Only a question about history may cost more when there is more of it.
RUN, PAGE, LIVE, HISTORY = "one run", "one page", "live runs", "history"


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    `{view}` stands for the view or its purpose-made table, `{run}` for one run, `{now}` for the
    newest time of the history: filling takes longer than the ten minutes that rules look back.
    """

    name: str
    view: str
    about: str
    sql: str
    bar_ms: float | None = None


_CURVE: Final = (
    "SELECT run_id, intDiv(step, {width}) AS bucket, min(value), avg(value), max(value) "
    "FROM {{view}} WHERE project = 'project-00' AND {runs} AND metric = 'train/loss' AND rank = 0 "
    "GROUP BY run_id, bucket ORDER BY run_id, bucket"
)
_LISTED: Final = (
    "run_id, name, project, status, status_reason, last_step, started_at, finished_at, last_seen_at"
)
_LIVE: Final = "(project, run_id) IN (SELECT project, run_id FROM v_runs WHERE status = 'running')"

QUESTIONS: Final = (
    Question("one run", "v_runs", RUN, "SELECT * FROM {view} WHERE {run}"),
    Question("status of one run", "v_runs", RUN, "SELECT status FROM {view} WHERE {run}"),
    Question(
        "by name", "v_runs", PAGE,
        "SELECT run_id, project, name, status FROM {view} WHERE name = 'name-150'",
    ),
    Question(
        "newest 100", "v_runs", PAGE,
        f"SELECT {_LISTED} FROM {{view}} ORDER BY started_at DESC LIMIT 100", 40,
    ),
    Question(
        "newest 100 of a project", "v_runs", PAGE,
        f"SELECT {_LISTED} FROM {{view}} WHERE project = 'project-05' "
        "ORDER BY started_at DESC LIMIT 100", 40,
    ),
    Question(
        "stalled runs", "v_runs", LIVE,
        "SELECT project, run_id, last_progress_at FROM {view} WHERE status = 'running'", 50,
    ),
    Question("count", "v_runs", HISTORY, "SELECT status, count() FROM {view} GROUP BY status"),
    Question("one run", "v_writers", RUN, "SELECT * FROM {view} WHERE {run}"),
    Question(
        "ranks that stopped", "v_writers", LIVE,
        f"SELECT run_id, rank, last_progress_at FROM {{view}} WHERE {_LIVE} AND status = 'running'",
    ),
    Question("one run", "v_attempts", RUN, "SELECT * FROM {view} WHERE {run}"),
    Question("one run", "v_params", RUN, "SELECT key, value FROM {view} WHERE {run}"),
    Question(
        "lr of a project", "v_params", HISTORY,
        "SELECT run_id, value FROM {view} WHERE project = 'project-05' AND key = 'lr'",
    ),
    Question("one run", "v_latest", RUN, "SELECT * FROM {view} WHERE {run}"),
    Question(
        "a metric of a project", "v_latest", HISTORY,
        "SELECT run_id, value FROM {view} WHERE project = 'project-05' "
        "AND metric = 'train/loss' AND rank = 0",
    ),
    Question("one run", "v_completeness", RUN, "SELECT * FROM {view} WHERE {run}"),
    Question(
        "all live runs", "v_completeness", LIVE,
        f"SELECT run_id, rank, pending FROM {{view}} WHERE {_LIVE} AND pending > 0", 100,
    ),
    Question(
        "curve of 60 steps", "v_series", RUN,
        "SELECT step, value FROM {view} WHERE {run} AND metric = 'train/loss' AND rank = 0", 50,
    ),
    Question(
        "curve of 5,000 steps", "v_series", RUN,
        _CURVE.format(width=3, runs="run_id = 'curve-00'"), 50,
    ),
    Question(
        "curve of a restarted run", "v_series", RUN,
        _CURVE.format(width=3, runs="run_id = 'restarted'"),
    ),
    Question(
        "20 curves of 5,000 steps", "v_series", PAGE,
        _CURVE.format(width=3, runs="startsWith(run_id, 'curve-')"), 300,
    ),
    Question(
        "curve of 10^6 steps", "v_series", RUN,
        _CURVE.format(width=500, runs="run_id = 'million'"),
    ),
    Question("count of a run", "v_metrics", RUN, "SELECT count() FROM {view} WHERE {run}"),
    Question(
        "NaN of live runs, last 10 minutes", "v_metrics", LIVE,
        f"SELECT run_id, metric, count() FROM {{view}} WHERE {_LIVE} "
        "AND at > {now} - 600 AND NOT isFinite(value) GROUP BY run_id, metric",
    ),
    Question(
        "last 100 lines of a run", "v_logs", RUN,
        "SELECT at, rank, text FROM {view} WHERE {run} ORDER BY at DESC LIMIT 100",
    ),
    Question(
        "warnings of the last 10 minutes", "v_logs", LIVE,
        "SELECT project, run_id, text FROM {view} WHERE at > {now} - 600 AND level = 'warning'",
    ),
    Question("one run", "v_histograms", RUN, "SELECT * FROM {view} WHERE {run}"),
    Question("one run", "v_checkpoints", RUN, "SELECT * FROM {view} WHERE {run}", 80),
    Question(
        "4,096 ranks", "v_checkpoints", RUN,
        "SELECT * FROM {view} WHERE project = 'project-00' AND run_id = 'ranks'",
    ),
    Question("one run", "v_artifacts", RUN, "SELECT * FROM {view} WHERE {run}", 80),
    Question(
        "one name", "v_artifacts", RUN,
        "SELECT * FROM {view} WHERE project = 'project-05' AND name = 'model-27'",
    ),
    Question(
        "pending anywhere", "v_artifacts", HISTORY,
        "SELECT project, run_id, name FROM {view} WHERE state = 'pending'",
    ),
    Question("one run", "v_artifact_uses", RUN, "SELECT * FROM {view} WHERE {run}"),
    Question(
        "by reason", "v_dead_letters", HISTORY,
        "SELECT reason, count() FROM {view} GROUP BY reason",
    ),
)  # fmt: skip
