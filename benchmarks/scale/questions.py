"""The questions that people, dashboards and rules ask each public view, and their bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# What a question is about: an answer about one run, one page or the live runs must cost the same
# however much history there is; one about a project or all runs may grow with it.
RUN, PAGE, LIVE, HISTORY = "one run", "one page", "live runs", "history"

USUAL: Final = "project = 'project-05' AND run_id = (SELECT run_id FROM scale_asked)"
CURVE: Final = (
    "project = 'project-00' AND run_id = 'curve-00' AND metric = 'train/loss' AND rank = 0"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question: `{view}` stands for the view, and for its purpose-made table."""

    name: str
    view: str
    sql: str
    about: str
    bar_ms: float | None = None
