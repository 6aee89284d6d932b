"""Telemetry for ML training: `import runwire`, `runwire.init()`, `runwire.log()`.

Nothing raises after `init`; records that `log` accepted survive the death of this process.
`unknown` are arguments that a call does not have: they are left out with a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from runwire.current import active_run, at_boundary, current
from runwire.errors import ArtifactError, CheckpointError, ConfigError, RunwireError
from runwire.metrics.flush import FlushReport
from runwire.other_trackers import missing_name
from runwire.run import Run
from runwire.settings import Settings
from runwire.start import init, start_run
from runwire.version import __version__
from runwire_disk.paths import pin_state_dir
from runwire_disk.spool.format import SpoolError

if TYPE_CHECKING:
    from runwire.artifacts.artifact import Artifact as Artifact
    from runwire.artifacts.histogram import Histogram as Histogram
    from runwire.checkpoints.loading import Checkpoint as Checkpoint
    from runwire.checkpoints.loading import read_checkpoint as read_checkpoint
    from runwire.checkpoints.saver import Saved
    from runwire.outbox.ref import ArtifactRef as ArtifactRef
    from runwire_store.retention import Retention as Retention

__all__ = [
    "init",
    "start_run",
    "active_run",
    "log",
    "log_metric",
    "log_metrics",
    "log_param",
    "log_params",
    "log_text",
    "log_artifact",
    "log_image",
    "log_figure",
    "log_table",
    "log_histogram",
    "use_artifact",
    "save_checkpoint",
    "log_checkpoint",
    "load_checkpoint",
    "read_checkpoint",
    "set_tag",
    "set_tags",
    "add_tags",
    "define_metric",
    "phase",
    "capture_exception",
    "mark_preempting",
    "flush",
    "finish",
    "Run",
    "Artifact",
    "ArtifactRef",
    "Histogram",
    "Checkpoint",
    "Retention",
    "Settings",
    "FlushReport",
    "RunwireError",
    "ArtifactError",
    "CheckpointError",
    "ConfigError",
    "SpoolError",
    "__version__",
]


def log(
    data: Mapping[str, Any] | None = None,
    step: int | None = None,
    *rest: Any,
    commit: bool = True,
    ts: Any = None,
    sync: bool = False,
    **unknown: Any,
) -> None:
    """Log scalars of the current run at `step`, the next one when it is None."""
    current().log(data, step, *rest, commit=commit, ts=ts, sync=sync, **unknown)


@at_boundary
def log_metric(key: str, value: Any, step: int | None = None, **unknown: Any) -> None:
    """Log one scalar of the current run."""
    current().log_metric(key, value, step, **unknown)


@at_boundary
def log_metrics(data: Mapping[str, Any], step: int | None = None, **unknown: Any) -> None:
    """Log scalars of the current run, as `log`."""
    current().log_metrics(data, step, **unknown)


@at_boundary
def log_param(key: str, value: Any, **unknown: Any) -> None:
    """Set one parameter of the current run."""
    current().log_param(key, value, **unknown)


@at_boundary
def log_params(params: Any, **unknown: Any) -> None:
    """Set several parameters of the current run."""
    current().log_params(params, **unknown)


@at_boundary
def log_text(text: str, name: str, step: int | None = None, **unknown: Any) -> None:
    """Log a text of the current run."""
    current().log_text(text, name, step, **unknown)


@at_boundary
def log_artifact(
    path: str | os.PathLike[str] | bytes | Artifact, name: str | None = None, **how: Any
) -> ArtifactRef:
    """Keep a file, folder, bytes or Artifact with the current run; see `Run.log_artifact`."""
    return current().log_artifact(path, name, **how)


@at_boundary
def log_image(img: Any, name: str, step: int | None = None, **unknown: Any) -> ArtifactRef:
    """Keep an image with the current run."""
    return current().log_image(img, name, step, **unknown)


@at_boundary
def log_figure(fig: Any, name: str, step: int | None = None, **unknown: Any) -> ArtifactRef:
    """Keep a matplotlib figure with the current run."""
    return current().log_figure(fig, name, step, **unknown)


@at_boundary
def log_table(rows: Any, name: str, **unknown: Any) -> ArtifactRef:
    """Keep a table with the current run."""
    return current().log_table(rows, name, **unknown)


@at_boundary
def log_histogram(
    name: str, values: Any | Histogram, step: int | None = None, **unknown: Any
) -> None:
    """Record the distribution of values with the current run."""
    current().log_histogram(name, values, step, **unknown)


@at_boundary
def use_artifact(ref: str, type: str | None = None) -> ArtifactRef:  # noqa: A002
    """Return the artifact that a name refers to now; record that the current run used it."""
    return current().use_artifact(ref, type)


@at_boundary
def save_checkpoint(step: int, **what: Any) -> Saved:
    """Save states as a checkpoint of the current run; see `Run.save_checkpoint`."""
    return current().save_checkpoint(step, **what)


@at_boundary
def log_checkpoint(path: str | os.PathLike[str], step: int, **how: Any) -> ArtifactRef:
    """Log files that another tool wrote as a checkpoint; see `Run.log_checkpoint`."""
    return current().log_checkpoint(path, step, **how)


@at_boundary
def load_checkpoint(which: str | int = "latest", **into: Any) -> Checkpoint | None:
    """Load a checkpoint of the current run; see `Run.load_checkpoint`."""
    return current().load_checkpoint(which, **into)


@at_boundary
def set_tag(key: str, value: Any, **unknown: Any) -> None:
    """Set one tag of the current run."""
    current().set_tag(key, value, **unknown)


@at_boundary
def set_tags(tags: Mapping[str, Any], **unknown: Any) -> None:
    """Set several tags of the current run."""
    current().set_tags(tags, **unknown)


@at_boundary
def add_tags(*names: str) -> None:
    """Add tags without values to the current run."""
    current().add_tags(*names)


@at_boundary
def define_metric(name: str, **how: Any) -> None:
    """Define how a metric is summarised and drawn; see `Run.define_metric`."""
    current().define_metric(name, **how)


@at_boundary
def phase(name: str) -> None:
    """Set the phase of the trainer, for example "eval"."""
    current().phase(name)


@at_boundary
def capture_exception(exc: BaseException | None = None) -> None:
    """Record an exception without ending the run."""
    current().capture_exception(exc)


@at_boundary
def mark_preempting(reason: str | None = None) -> None:
    """Record that the current run is about to be pre-empted."""
    current().mark_preempting(reason)


@at_boundary
def flush(timeout: float | None = 5) -> FlushReport:
    """Force all records to the device and wait until they are stored, at most `timeout` s."""
    return current().flush(timeout)


@at_boundary
def finish(
    status: str | None = None, exit_code: int | None = None, timeout: float | None = None
) -> FlushReport:
    """End the current run; harmless without one."""
    run = active_run()
    return run.finish(status, exit_code, timeout) if run is not None else FlushReport()


# Before a framework changes the working folder (Hydra does so before the user's function runs).
pin_state_dir(os.environ)

# `runwire.run`, `.config` and `.summary` are those of the current run, as wandb users expect. The
# module `runwire.run` stays importable; only the package's attribute of that name is removed.
_OF_CURRENT_RUN = ("run", "config", "summary")
for _name in _OF_CURRENT_RUN:
    globals().pop(_name, None)


# Loaded at first use: every trainer pays for the modules that `import runwire` loads.
_WHEN_USED = {
    "Artifact": "runwire.artifacts.artifact",
    "ArtifactRef": "runwire.outbox.ref",
    "Checkpoint": "runwire.checkpoints.loading",
    "Histogram": "runwire.artifacts.histogram",
    "Retention": "runwire_store.retention",
    "read_checkpoint": "runwire.checkpoints.loading",
}


def __getattr__(name: str) -> Any:
    if name == "run":
        return active_run()
    if name in _WHEN_USED:
        return getattr(import_module(_WHEN_USED[name]), name)
    if name in _OF_CURRENT_RUN:
        return getattr(current(), name)
    raise AttributeError(missing_name("module 'runwire'", name))
