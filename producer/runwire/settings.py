"""Settings of the SDK, resolved once when `init` is called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from runwire.recorded_ranks import parse_ranks
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
    Kind,
    choice,
    is_disabled,
    setting,
)
from runwire_schemas.identity import DEFAULT_PROJECT

__all__ = ["Settings"]


def _tags(value: object) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return tuple(f"{key}={text}" for key, text in value.items())
    parts = value.split(",") if isinstance(value, str) else list(value)  # type: ignore[call-overload]
    if not all(isinstance(part, str) for part in parts):
        raise TypeError
    return tuple(part.strip() for part in parts if part.strip())


RANKS: Final = Kind("all, zero, or ranks such as 0,4", parse_ranks)
TAGS: Final = Kind("comma separated names or name=value, for example night,model=small", _tags)


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
    ranks: str | tuple[int, ...] = setting(
        RANKS, "all", "ranks whose metrics are recorded: all, zero, or a list such as 0,4"
    )
    group: str | None = setting(TEXT, None, "group of the run")
    parent_run_id: str | None = setting(TEXT, None, "id of the run that started this one")
    tags: tuple[str, ...] | None = setting(
        TAGS, None, "tags of the run: comma separated names, or name=value"
    )
    quiet: bool = setting(FLAG, False, "print no line at the start and end of a run")
    finish_timeout_s: float = setting(
        SECONDS,
        0.0,
        "how long `finish` without `timeout`, and the end of the process, wait until everything "
        "is stored",
    )
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
