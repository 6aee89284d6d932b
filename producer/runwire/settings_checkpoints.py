"""Rows of the settings table about checkpoints."""

from __future__ import annotations

from runwire_schemas.connections.table import Field

__all__ = ["CHECKPOINT_FIELDS"]

CHECKPOINT_FIELDS: tuple[Field, ...] = (
    Field(
        "checkpoint_dir",
        "path",
        "",
        None,
        "folder of the local checkpoints, shared by the nodes of a job if it can be; unset: "
        "`checkpoints` in the data root",
    ),
    Field(
        "checkpoint_compress",
        "choice",
        "",
        "off",
        "zstd: smaller files, slower saves; needs the extra `zstd`",
        choices=("off", "zstd"),
    ),
    Field("checkpoint_keep_last", "count", "", 0, "keep the last so many checkpoints of a run"),
    Field(
        "checkpoint_keep_best",
        "count",
        "",
        0,
        "keep so many with the best metric; without a metric, of those marked as best",
    ),
    Field(
        "checkpoint_keep_every",
        "count",
        "",
        0,
        "keep those whose step is a multiple; all three at 0 keep every checkpoint",
    ),
    Field(
        "checkpoint_metric", "text", "", None, "metric of `save_checkpoint` that says which is best"
    ),
    Field(
        "checkpoint_mode",
        "choice",
        "",
        "min",
        "whether a small or a large metric is better",
        choices=("min", "max"),
    ),
)
