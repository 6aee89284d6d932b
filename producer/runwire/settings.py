"""Settings of the SDK, resolved once when `init` is called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from runwire_disk.settings import GIB, NodeSettings
from runwire_schemas.connections.table import (
    BYTES,
    COUNT,
    FLAG,
    PATH,
    RATIO,
    SECONDS,
    SIGNALS,
    TEXT,
    choice,
    is_disabled,
    setting,
)
from runwire_schemas.identity import DEFAULT_PROJECT

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(NodeSettings):
    """Settings of one `init`: those of the node, and those of this run."""

    project: str = setting(TEXT, DEFAULT_PROJECT, "project that runs belong to")
    run_id: str | None = setting(TEXT, None, "id of the run; all ranks of one job must share it")
    mode: str = setting(
        choice("online", "offline", "disabled"),
        "online",
        "offline: start no agent, leave the spool to `runwire up` or `runwire sync`; "
        "disabled: log nothing",
    )
    strict: bool = setting(FLAG, False, "raise what logging calls would otherwise count")
    agent: str = setting(
        choice("process", "thread", "none"),
        "process",
        "who watches the trainer: a process of its own, a thread in it, or nobody",
    )
    quota_bytes: int = setting(BYTES, 2 * GIB, "spool space of one writer process")
    outbox_bytes: int = setting(
        BYTES,
        20 * GIB,
        "most bytes the outbox may hold; above it `log_artifact` refuses",
    )
    disk_free_ratio_min: float = setting(RATIO, 0.10, "share of the disk that stays free")
    fork_policy: str = setting(
        choice("inherit", "ignore", "raise"),
        "inherit",
        "forked children: log as workers of this rank, log nothing, or raise",
    )
    finish_timeout_s: float = setting(SECONDS, 5.0, "longest wait of `finish` at process exit")
    preempt_signals: tuple[str, ...] = setting(
        SIGNALS,
        ("SIGTERM",),
        "signals that announce a pre-emption, comma separated (for example SIGTERM,SIGUSR1)",
    )
    capture_git: bool = setting(FLAG, True, "record commit, branch and dirty state at init")
    checkpoint_dir: str | None = setting(
        PATH,
        None,
        "folder of the local checkpoints, shared by the nodes of a job if it can be; unset: "
        "`checkpoints` in the data root",
    )
    checkpoint_compress: str = setting(
        choice("off", "zstd"), "off", "zstd: smaller files, slower saves; needs the extra `zstd`"
    )
    checkpoint_keep_last: int = setting(
        COUNT, 0, "keep the last N checkpoints of a run (0: no limit)"
    )
    checkpoint_keep_best: int = setting(
        COUNT, 0, "keep the N with the best metric; without a metric, of those marked as best"
    )
    checkpoint_keep_every: int = setting(COUNT, 0, "keep those whose step is a multiple of N")
    checkpoint_metric: str | None = setting(
        TEXT, None, "metric of `save_checkpoint` that says which is best"
    )
    checkpoint_mode: str = setting(
        choice("min", "max"), "min", "whether a small or a large metric is better"
    )

    @classmethod
    def resolve(
        cls,
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Merge arguments, environment, `./runwire.toml` and defaults, in this precedence.

        RUNWIRE_DISABLED counts as `mode="disabled"` from the environment.

        Raises: ConfigError naming the value, where it came from and what is accepted.
        """
        environ = os.environ if environ is None else environ
        if is_disabled(environ):
            environ = {**environ, "RUNWIRE_MODE": "disabled"}
        return super(Settings, cls).resolve(overrides, environ, cwd)

    def check(self) -> None:
        """Check that settings agree with each other. Raises: ConfigError."""
        if self.mode != "disabled":
            super(Settings, self).check()
