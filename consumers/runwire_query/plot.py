"""Learning curves as a picture, drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from runwire_query.api.metrics import CurvePoint
from runwire_query.errors import QueryError

PANELS_MAX: Final = 24
COLUMNS: Final = 3


def draw(file: Path, title: str, curves: Mapping[tuple[str, int], Sequence[CurvePoint]]) -> None:
    """Write one panel per metric with one line per rank; curves are by metric and rank.

    Raises: QueryError when the file cannot be written.
    """
    # The object interface: no pyplot, so no display and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(metric for metric, _ in curves))
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for index, name in enumerate(names):
        panel = figure.add_subplot(rows, columns, index + 1)
        ranks = [(rank, curve) for (metric, rank), curve in curves.items() if metric == name]
        for rank, curve in ranks:
            steps = [point.step for point in curve]
            values = [math.nan if point.value is None else point.value for point in curve]
            marker = "." if len(values) == 1 else ""
            panel.plot(steps, values, marker=marker, linewidth=1.2, label=f"rank {rank}")
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(visible=True, alpha=0.3)
        if len(ranks) > 1:
            panel.legend(fontsize=7)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: an unknown file ending
        raise QueryError(f"cannot write the picture {file}: {error}") from error
