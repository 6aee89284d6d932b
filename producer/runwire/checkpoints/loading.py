"""Loading: a checkpoint's states read, verified and put back into the objects given for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runwire.checkpoints.fitting import fit_keys
from runwire.checkpoints.local import MANIFEST_FILE, VerifiedPart, content_dir, was_saved_by_us
from runwire.checkpoints.snapshot import unwrap
from runwire.checkpoints.state_file import (
    FORMAT,
    LEFT_OUT,
    PACKED_STATE_FILE,
    STATE_FILE,
    describe_left_out,
    digest_of,
    read_state,
)
from runwire.conversion import ANY, PATH
from runwire.errors import CheckpointError
from runwire.guard import needed_call
from runwire_store.manifest import Manifest, ManifestError

if TYPE_CHECKING:
    from runwire.checkpoints.finding import Finder

__all__ = ["Checkpoint", "Loaded", "load", "read_checkpoint"]

_log = logging.getLogger("runwire")

# Keys of the mapping in a state file that are not the state of an object.
_OWN_KEYS: Final = frozenset(("runwire", "step", "metrics", "extra", "rng", LEFT_OUT))
_KEYS_MAX: Final = 10  # in a sentence


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was loaded.

    `state` holds the states that no object was given for; `path` is the file, or the folder of
    several. `extra` is as saved, except that numpy arrays are tensors and settings plain values.
    `left_out` has the places of values that could not be saved, and what they were; `missing_keys`
    and `unexpected_keys` what a load with strict=False did not match. Units: `saved_at_ns` is unix
    time.
    """

    step: int
    path: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    extra: Any = None
    state: Mapping[str, Any] = field(default_factory=dict, repr=False)
    run_id: str = ""
    attempt: str = ""
    artifact: str = ""
    kind: str = "full"
    is_best: bool = False
    saved_at_ns: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict, repr=False)
    missing_keys: tuple[str, ...] = field(default=(), repr=False)
    unexpected_keys: tuple[str, ...] = field(default=(), repr=False)

    @property
    def model(self) -> Any:
        """State of the model. Raises: CheckpointError when it was restored or not saved."""
        if "model" not in self.state:
            raise CheckpointError(
                f"checkpoint {self.step} has no state of a model left: it was restored into "
                "model=, or saved without one"
            )
        return self.state["model"]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint with the part that it came from and its states of random generators."""

    part: VerifiedPart
    checkpoint: Checkpoint
    rng: Mapping[str, Any]

    def used_fields(self) -> dict[str, Any]:
        """Return the record that a run used this checkpoint of another run."""
        from runwire_store.announce import used_fields

        manifest = self.part.manifest
        uri = self.part.folder.as_uri()
        return used_fields(manifest, uri)


def load(
    finder: Finder,
    which: str | int,
    objects: Mapping[str, Any],
    *,
    strict: bool,
    map_location: Any,
) -> Loaded | None:
    """Return the checkpoint after putting its states into `objects`; None when the run has none.

    Raises: CheckpointError; torch's own error for states that do not fit.
    """
    part = finder.bring_first(which)
    if part is None:
        return None
    facts = part.manifest.checkpoint
    assert facts is not None
    content = _content_of(part, objects, map_location=map_location)
    left_out = _left_out(content, facts.step)
    restored = _restore(content, objects, step=facts.step, strict=strict)
    checkpoint = Checkpoint(
        step=facts.step,
        path=part.path,
        metrics=dict(facts.metrics),
        extra=content.get("extra"),
        state=restored.left,
        left_out=left_out,
        missing_keys=tuple(restored.missing),
        unexpected_keys=tuple(restored.unexpected),
        run_id=part.manifest.run_id,
        attempt=part.manifest.attempt,
        artifact=part.manifest.artifact,
        kind=facts.kind,
        is_best=facts.is_best,
        saved_at_ns=part.manifest.created_at_ns,
    )
    # A foreign file may use this key for something else.
    rng = content.get("rng") if content.get("runwire") == FORMAT else None
    return Loaded(part=part, checkpoint=checkpoint, rng=rng if isinstance(rng, Mapping) else {})


def _content_of(
    part: VerifiedPart, objects: Mapping[str, Any], *, map_location: Any
) -> dict[str, Any]:
    """Return the content of the state file; empty for foreign files that no object is given for.

    Raises: CheckpointError when objects are given and only the tool that wrote the files reads it.
    """
    manifest = part.manifest
    assert manifest.checkpoint is not None
    step, is_wanted = manifest.checkpoint.step, any(v is not None for v in objects.values())
    if len(part.files) == 1 and manifest.checkpoint.kind != "dcp":
        path, is_ours = part.files[0], was_saved_by_us(manifest)
        if is_ours or is_wanted:
            # The recorded size of a compressed foreign file is not its decompressed size.
            raw_bytes = manifest.checkpoint.raw_bytes if is_ours else -1
            content = read_state(path, raw_bytes=raw_bytes, map_location=map_location)
            if isinstance(content, dict):
                if is_ours:
                    _check_format(content, path)
                return content
            raise CheckpointError(
                f"{path} holds a {type(content).__name__}, not a mapping of states"
            )
    if is_wanted:
        raise CheckpointError(
            f"checkpoint {step} was written by another tool ({manifest.checkpoint.kind}, "
            f"{len(part.files)} files): call load_checkpoint({step}) without model= and load its "
            ".path with that tool, for example torch.distributed.checkpoint.load"
        )
    return {}


def _left_out(content: Mapping[str, Any], step: int) -> dict[str, str]:
    """Return what could not be saved, by its place; say it."""
    left_out = content.get(LEFT_OUT) if content.get("runwire") == FORMAT else None
    if not isinstance(left_out, dict) or not left_out:
        return {}
    places = {str(place): str(what) for place, what in left_out.items()}
    _log.warning("runwire: %s", describe_left_out(step, places))
    return places


@dataclass(slots=True)
class _Restored:
    """States that no object was given for, and keys of models that did not match."""

    left: dict[str, Any]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def load_model(self, model: Any, state: Any, place: str, *, strict: bool) -> None:
        """Load a model's state; keep the keys that did not match. Raises: torch's own error."""
        result = model.load_state_dict(fit_keys(model, state), strict=strict)
        prefix = place.removeprefix("model")
        for keys, more in (
            (self.missing, getattr(result, "missing_keys", ())),
            (self.unexpected, getattr(result, "unexpected_keys", ())),
        ):
            keys += [f"{prefix}.{key}" if prefix else str(key) for key in more]

    def warn(self, step: int) -> None:
        """Say which keys did not match."""
        parts = []
        if self.missing:
            parts.append(f"has no values for {_shorten(self.missing)}, which stay as they are")
        if self.unexpected:
            parts.append(f"has {_shorten(self.unexpected)}, which the model does not have")
        if parts:
            _log.warning("runwire: checkpoint %d %s", step, ", and ".join(parts))


def _shorten(keys: Sequence[str]) -> str:
    more = len(keys) - _KEYS_MAX
    return ", ".join(keys[:_KEYS_MAX]) + (f" and {more} more keys" if more > 0 else "")


def _restore(
    content: dict[str, Any], objects: Mapping[str, Any], *, step: int, strict: bool
) -> _Restored:
    """Put states into the objects given for them.

    Raises: CheckpointError for a state that was not saved; torch's own error when one does not fit.
    """
    left = {key: value for key, value in content.items() if key not in _OWN_KEYS}
    missing = [name for name in objects if objects[name] is not None and name not in left]
    if missing:
        had = ", ".join(sorted(map(str, left))) or "none"  # foreign keys may be of any type
        raise CheckpointError(
            f"checkpoint {step} has no state of {' and '.join(missing)} (it has: {had}). Leave "
            "the argument out, or load the file at its .path yourself"
        )
    matched: list[tuple[Any, Any, str]] = []
    for name, thing in objects.items():
        if thing is not None:
            matched += _match(thing, left.pop(name), name, step)
    restored = _Restored(left)
    # Only now: a missing state must leave all objects as they were.
    for target, state, place in matched:
        if place.partition("[")[0] == "model":
            restored.load_model(target, state, place, strict=strict)
        else:
            target.load_state_dict(state)
    restored.warn(step)
    return restored


@needed_call(error=CheckpointError, path=PATH, map_location=ANY)
def read_checkpoint(path: str | Path, *, map_location: Any = None) -> Checkpoint:
    """Load the folder or state file of a downloaded checkpoint; no run is needed.

    Raises: CheckpointError; OSError. Blocks: reads it twice where a manifest has its digest.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    manifest = _manifest_beside(folder)
    if path.is_dir():
        place = content_dir(manifest, path) if manifest is not None else path
        names = (STATE_FILE, PACKED_STATE_FILE)
        states = [place / name for name in names if (place / name).is_file()]
        if len(states) != 1:
            raise CheckpointError(f"{path} holds no {STATE_FILE} that save_checkpoint wrote")
        path = states[0]
    raw_bytes = -1
    if manifest is not None and manifest.checkpoint is not None:
        raw_bytes = manifest.checkpoint.raw_bytes
        if [entry.sha256 for entry in manifest.files] != [digest_of(path)]:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not that of {MANIFEST_FILE}")
    content = read_state(path, raw_bytes=raw_bytes, map_location=map_location)
    if not isinstance(content, dict) or "runwire" not in content:
        raise CheckpointError(f"{path} was not written by save_checkpoint")
    _check_format(content, path)
    if missing := [key for key in ("step", "metrics", "extra") if key not in content]:
        raise CheckpointError(
            f"{path} was not written by save_checkpoint: it has no {' and no '.join(missing)}"
        )
    return Checkpoint(
        step=content["step"],
        path=path,
        metrics=content["metrics"],
        extra=content["extra"],
        state={key: value for key, value in content.items() if key not in _OWN_KEYS},
        left_out=_left_out(content, content["step"]),
    )


def _check_format(content: Mapping[str, Any], path: Path) -> None:
    """Raises: CheckpointError when a newer runwire wrote it."""
    version = content.get("runwire", FORMAT)
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"{path} is of format {version} and this runwire reads up to {FORMAT}: upgrade runwire"
        )


def _manifest_beside(folder: Path) -> Manifest | None:
    try:
        data = (folder / MANIFEST_FILE).read_bytes()
    except OSError:
        return None
    try:
        return Manifest.from_json(data)
    except ManifestError as error:
        raise CheckpointError(f"{folder / MANIFEST_FILE}: {error}") from error


def _match(thing: Any, state: Any, name: str, step: int) -> Iterator[tuple[Any, Any, str]]:
    """Yield each object with load_state_dict(), its state and place. Raises: CheckpointError."""
    thing = unwrap(thing)
    if callable(getattr(thing, "load_state_dict", None)):
        yield thing, state, name
        return
    items = (
        thing.items()
        if isinstance(thing, Mapping)
        else enumerate(thing)
        if isinstance(thing, list | tuple)
        else ()
    )
    pairs = [(key, value) for key, value in items if hasattr(value, "load_state_dict")]
    if not pairs:
        raise CheckpointError(
            f"{name}= is a {type(thing).__name__}: give an object with load_state_dict(), or a "
            "mapping or list of such; plain state is in the checkpoint's .state"
        )
    for key, value in pairs:
        try:
            part = state[key]
        except (LookupError, TypeError):
            raise CheckpointError(
                f"checkpoint {step} has no state of {name}[{key!r}] ({_had(state, name)}). Give as "
                f"many and the same names as were saved, or take .state of load_checkpoint({step})"
            ) from None
        yield from _match(value, part, f"{name}[{key!r}]", step)


def _had(state: Any, name: str) -> str:
    if isinstance(state, list | tuple):
        return f"{name} was saved as a list of {len(state)}"
    if not isinstance(state, Mapping):
        return f"{name} was saved as a {type(state).__name__}"
    keys = ", ".join(repr(key) for key in islice(state, 10))
    return f"{name} was saved with {keys}{', ...' if len(state) > 10 else ''}"
