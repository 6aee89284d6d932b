"""Run id and attempt of this process, derived so that all ranks agree without a collective."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runwire.errors import ConfigError
from runwire.job.launches import adopted_run, attempt_facts, launch_facts
from runwire.job.ranks import Ranks, detect_ranks
from runwire_disk.host import PROC, boot_id, pid_namespace, process_start

__all__ = [
    "Identity",
    "boot_id",
    "detect_ranks",
    "identify",
    "pid_namespace",
    "process_start",
    "validate_project",
    "validate_run_id",
]

ID_CHARS_MAX = 200
# Restarts that keep the run but start a new attempt of it.
_RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
_ONE_RUN_ID = (
    "runwire cannot derive a run id that all {world_size} ranks of this job share: the job spans "
    "several nodes (or pods) and neither SLURM nor a torchrun --rdzv-id names it. Set "
    "RUNWIRE_RUN_ID to the same value on every rank (for example "
    "RUNWIRE_RUN_ID=$(date +%Y%m%d-%H%M%S) in the launching script, or in a Kubernetes manifest "
    "the job's own name and date), or pass run_id= to init."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Identity of this process in its run; `source` names the origin of the run id."""

    project: str
    run_id: str
    attempt: str
    ranks: Ranks
    source: str


def identify(
    project: str,
    run_id: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    nth: int = 0,
    proc: Path = PROC,
) -> Identity:
    """Return the identity for the `nth` run of this process; later runs get ids of their own.

    Raises: ConfigError when ids are not usable, or when no shared run id can be derived.
    """
    ranks = detect_ranks(environ)
    environ = os.environ if environ is None else environ
    project = validate_project(project)
    if run_id is not None:
        run_id = validate_run_id(run_id)
        attempt = _attempt(ranks, environ, nth=nth, proc=proc)
        return Identity(
            project=project, run_id=run_id, attempt=attempt, ranks=ranks, source="explicit"
        )
    if ranks.world_size == 1:
        return Identity(
            project=project,
            run_id=_random_id(),
            attempt=_random_id(),
            ranks=ranks,
            source="random",
        )
    adopted = None if nth else adopted_run(ranks, environ, proc)
    if adopted is not None:
        return Identity(
            project=project, run_id=adopted[0], attempt=adopted[1], ranks=ranks, source="launcher"
        )
    source, facts = launch_facts(ranks, environ, proc=proc)
    if not facts:
        raise ConfigError(_ONE_RUN_ID.format(world_size=ranks.world_size))
    return Identity(
        project=project,
        run_id=_digest("run", *facts, *_nth(nth)),
        attempt=_attempt(ranks, environ, nth=nth, proc=proc),
        ranks=ranks,
        source=source,
    )


def validate_run_id(value: object) -> str:
    """Return a run id. Raises: ConfigError unless it is usable."""
    return _validate("run_id", value)


def validate_project(value: object) -> str:
    """Return a project name. Raises: ConfigError unless it is usable."""
    return _validate("project", value)


def _validate(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{what} must be text, not {type(value).__name__}: {value!r}.")
    if not value.strip():
        raise ConfigError(f"{what} is empty. Leave it out for the default, or give it a name.")
    if len(value) > ID_CHARS_MAX:
        raise ConfigError(
            f"{what} has {len(value)} characters, at most {ID_CHARS_MAX} are allowed. Shorten it "
            "and put long descriptions into notes=."
        )
    for char in value:
        # C: control, format, surrogate, unassigned; Z other than the space: line separators.
        category = unicodedata.category(char)
        if category[0] == "C" or category in ("Zl", "Zp"):
            raise ConfigError(
                f"{what} {value!r} holds the unprintable character {char!r}. Use printable text."
            )
    if value != value.strip():
        raise ConfigError(f"{what} {value!r} begins or ends with a space. Remove it.")
    return value


def _attempt(ranks: Ranks, environ: Mapping[str, str], *, nth: int, proc: Path) -> str:
    """Return the key of this start of the run: equal on all ranks, new after every restart."""
    if ranks.world_size == 1:
        return _random_id()
    source, facts = launch_facts(ranks, environ, proc=proc)
    if not facts:
        # An explicit run id on several nodes: the rendezvous address is all that ranks share.
        source = "rendezvous"
        facts = (environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", ""))
    facts = (*facts, *attempt_facts())
    restarts = [f"{name}={environ.get(name, '') or '0'}" for name in _RESTART_COUNTS]
    return _digest("attempt", source, *facts, *restarts, *_nth(nth))


def _nth(nth: int) -> tuple[str, ...]:
    return (f"nth={nth}",) if nth else ()


def _digest(*parts: str) -> str:
    # Length-prefixed: ("ab", "c") and ("a", "bc") must differ.
    data = b"".join(b"%d:%b" % (len(p.encode()), p.encode()) for p in parts)
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _random_id() -> str:
    return os.urandom(8).hex()
