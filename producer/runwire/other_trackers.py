"""Names that people know from wandb, MLflow and TensorBoard, and what to write here instead."""

from __future__ import annotations

from typing import Final

__all__ = ["instead_at_init", "missing_argument", "missing_name"]

_NAMES: Final = {
    "Api": "runwire_query, or `runwire sql`",
    "Audio": "log_artifact(path, name)",
    "Html": "log_artifact(path, name)",
    "Image": "log_image(image, name)",
    "Object3D": "log_artifact(path, name)",
    "Table": "log_table(rows, name), with rows as mappings or a data frame",
    "Video": "log_artifact(path, name)",
    "active_experiment": "run.project",
    "add_figure": "log_figure(figure, name, step)",
    "add_histogram": "log_histogram(name, values, step)",
    "add_hparams": "config.update({...})",
    "add_image": "log_image(image, name, step)",
    "add_scalar": "log({name: value}, step=step)",
    "add_scalars": "log({group: {name: value}}, step=step)",
    "add_text": "log_text(text, name, step)",
    "agent": "a scheduler of your own; runwire has no sweeps",
    "alert": "log_text(text, 'alert')",
    "autolog": "log({...}) in the loop",
    "create_experiment": "init(project='NAME')",
    "end_run": "finish()",
    "get_run": "runwire_query, or `runwire show RUN`",
    "link_artifact": "log_artifact(path, name, aliases=['best'])",
    "log_artifacts": "log_artifact(folder, name)",
    "log_batch": "log({...}) and config.update({...})",
    "log_code": "log_artifact(folder, 'code'); the git commit is recorded",
    "log_dict": "log_artifact(json.dumps(values).encode(), 'NAME.json')",
    "log_input": "use_artifact('NAME')",
    "log_inputs": "use_artifact('NAME')",
    "log_model": "save_checkpoint(step, model=...) or log_artifact(path, name, type='model')",
    "login": "nothing: runwire has no accounts",
    "plot": "log_table(rows, name) or log_figure(figure, name)",
    "save": "log_artifact(path, name)",
    "search_runs": "runwire_query, or `runwire runs`",
    "set_experiment": "init(project='NAME')",
    "set_experiment_tag": "set_tag(key, value) of a run",
    "set_tracking_uri": "the settings RUNWIRE_...; see the README",
    "sweep": "a scheduler of your own; runwire has no sweeps",
    "unwatch": "nothing: there is no watch",
    "watch": "log_histogram(name, parameter) now and then",
}
_ARGUMENTS: Final = {
    "artifact_file": "give name=",
    "artifact_path": "give name='FOLDER/FILE'",
    "caption": "put it into the name",
    "dataset": "log use_artifact('NAME')",
    "local_path": "give path=",
    "run_id": "calls go to the current run, or to the run they are called on",
    "step_sync": "leave it out, step_metric is enough",
    "synchronous": "leave it out, the spool keeps what a call logged",
    "timestamp": "use log({name: value}, ts=SECONDS)",
}
_AT_INIT: Final = {
    "all_ranks": "every rank is recorded by default; use ranks='zero' or ranks=[0, 4] for less",
    "anonymous": "leave it out: runwire has no accounts",
    "entity": "runwire has no accounts or teams; put the team into project= or group=",
    "experiment_id": "use project='NAME'",
    "experiment_name": "use project='NAME'",
    "force": "leave it out: runwire has no accounts",
    "log_dir": "use dir='FOLDER'",
    "run_name": "use name='NAME'",
    "save_code": "leave it out: the git commit is recorded (RUNWIRE_CAPTURE_GIT)",
    "sync_tensorboard": "log the values with runwire.log",
}


def missing_name(owner: str, name: str) -> str:
    """Return the sentence of the AttributeError for a name that `owner` does not have."""
    instead = _NAMES.get(name)
    return f"{owner} has no {name!r}" + (f": use {instead}" if instead else "")


def missing_argument(name: str) -> str:
    """Return the sentence for an argument that a call does not have."""
    instead = _ARGUMENTS.get(name)
    return f"there is no argument {name!r}" + (f"; {instead}" if instead else "")


def instead_at_init(name: str) -> str | None:
    """Return what to do instead of an argument of other trackers' `init`; None for other names."""
    return _AT_INIT.get(name)
