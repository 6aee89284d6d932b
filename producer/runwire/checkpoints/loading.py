"""Loading: the state file of a checkpoint, and what of it goes back into which object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from runwire.checkpoints.compress import SUFFIX
from runwire.checkpoints.local import MANIFEST_FILE
from runwire.checkpoints.snapshot import unwrapped
from runwire.checkpoints.state_file import FORMAT, STATE_FILE, digest_of, read_state
from runwire.checkpoints.verifying import Found, content_dir, is_ours
from runwire.errors import CheckpointError
from runwire_store.manifest import Manifest, ManifestError

__all__ = ["Checkpoint", "loaded", "read_checkpoint", "restore"]

# Of the mapping in a state file: what is no state of an object.
_OWN_KEYS: Final = frozenset(("runwire", "step", "metrics", "extra", "rng"))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was loaded.

    `state` holds what no object was given for; `path` is the file, or the folder of many. `extra`
    comes back as saved, except that numpy arrays are tensors. Units: `saved_at_ns` is unix time.
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

    @property
    def model(self) -> Any:
        """State of the model. Raises: CheckpointError when it was restored, or never saved."""
        if "model" not in self.state:
            raise CheckpointError(
                f"checkpoint {self.step} has no state of a model left: it was put into model=, or "
                "was saved without one"
            )
        return self.state["model"]


def loaded(found: Found, wanted: Mapping[str, Any], *, map_location: Any) -> dict[str, Any]:
    """Return the content of a verified state file; empty for files of others nobody asked about.

    Raises: CheckpointError when states are wanted that only who wrote the files can read.
    """
    manifest = found.manifest
    assert manifest.checkpoint is not None
    step, is_wanted = manifest.checkpoint.step, any(v is not None for v in wanted.values())
    if len(found.files) == 1 and manifest.checkpoint.kind != "dcp":
        path, ours = found.files[0], is_ours(manifest)
        if ours or is_wanted:
            # What others compressed had that size when it was logged, not when it is unpacked.
            raw_bytes = manifest.checkpoint.raw_bytes if ours else -1
            content = read_state(path, raw_bytes=raw_bytes, map_location=map_location)
            if isinstance(content, dict):
                if ours:
                    _check_format(content, path)
                return content
            raise CheckpointError(f"{path} holds a {type(content).__name__}, no mapping of states")
    if is_wanted:
        raise CheckpointError(
            f"checkpoint {step} was written by others ({manifest.checkpoint.kind}, "
            f"{len(found.files)} files): call load_checkpoint({step}) without model= and give its "
            ".path to what wrote it, for example torch.distributed.checkpoint.load"
        )
    return {}


def restore(
    content: dict[str, Any], wanted: Mapping[str, Any], *, step: int, strict: bool
) -> dict[str, Any]:
    """Put states into the objects given for them; return what is left.

    Raises: CheckpointError for a state that was not saved; torch's own error when one does not fit.
    """
    left = {key: value for key, value in content.items() if key not in _OWN_KEYS}
    missing = [name for name in wanted if wanted[name] is not None and name not in left]
    if missing:
        had = ", ".join(sorted(map(str, left))) or "none"  # of others: keys of any kind
        raise CheckpointError(
            f"checkpoint {step} has no state of {' and '.join(missing)} (it has: {had}). Leave "
            "the argument out, or load the file at its .path yourself"
        )
    matched: list[tuple[Any, Any, Mapping[str, Any]]] = []
    for name, thing in wanted.items():
        if thing is not None:
            how = {"strict": strict} if name == "model" else {}
            matched += [(*pair, how) for pair in _matched(thing, left.pop(name), name, step)]
    # Only now: a state that is not there must leave all objects as they were.
    for each, state, words in matched:
        each.load_state_dict(state, **words)
    return left


def read_checkpoint(path: str | Path, *, map_location: Any = None) -> Checkpoint:
    """Load a checkpoint's folder or state file that was downloaded; no run is needed.

    Raises: CheckpointError; OSError. Blocks: reads it twice where a manifest says its digest.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    manifest = _manifest_beside(folder)
    if path.is_dir():
        place = content_dir(manifest, path) if manifest is not None else path
        known = [place / name for name in (STATE_FILE, STATE_FILE + SUFFIX)]
        states = [each for each in known if each.is_file()]
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
    )


def _check_format(content: Mapping[str, Any], path: Path) -> None:
    """Files of others hold any keys; of ours the number says who can read them."""
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


def _matched(thing: Any, state: Any, name: str, step: int) -> Iterator[tuple[Any, Any]]:
    """Yield each object with load_state_dict() and its state. Raises: CheckpointError."""
    thing = unwrapped(thing)
    if callable(getattr(thing, "load_state_dict", None)):
        yield thing, state
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
            f"{name}= is a {type(thing).__name__}: give what has load_state_dict(), or a mapping "
            "or list of such; plain state comes back in the checkpoint's .state"
        )
    for key, value in pairs:
        try:
            part = state[key]
        except (LookupError, TypeError):
            raise CheckpointError(
                f"checkpoint {step} has no state of {name}[{key!r}] ({_had(state, name)}). Give as "
                f"many and the same names as were saved, or take .state of load_checkpoint({step})"
            ) from None
        yield from _matched(value, part, f"{name}[{key!r}]", step)


def _had(state: Any, name: str) -> str:
    if isinstance(state, list | tuple):
        return f"{name} was saved as a list of {len(state)}"
    if not isinstance(state, Mapping):
        return f"{name} was saved as a {type(state).__name__}"
    keys = ", ".join(repr(key) for key in islice(state, 10))
    return f"{name} was saved with {keys}{', ...' if len(state) > 10 else ''}"
