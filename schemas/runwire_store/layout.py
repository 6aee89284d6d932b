"""Keys of the store: built from ids alone, so that no name a user typed becomes a path.

blobs/<2 hex>/<sha256>                                              content
runs/<run key>/artifacts/<artifact>.json                            manifest
runs/<run key>/checkpoints/<step>/<attempt>-<rank>-<artifact>.json  manifest of a checkpoint
runs/<run key>/deleted.json                                         the run is gone for good
names/<project key>/<name key>/<stamp>-<artifact>.json              one version of a name
staging/<artifact>/<sha256>/…                                       pieces on their way
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from runwire_schemas.identity import attempt_key, run_key

__all__ = [
    "BLOBS",
    "NAMES",
    "RUNS",
    "STAGING",
    "artifact_key",
    "artifacts_prefix",
    "blob_key",
    "checkpoint_key",
    "checkpoints_prefix",
    "name_prefix",
    "names_prefix",
    "staging_prefix",
    "tombstone_key",
    "version_key",
]

BLOBS: Final = "blobs/"
NAMES: Final = "names/"
RUNS: Final = "runs/"
STAGING: Final = "staging/"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARTIFACT = re.compile(r"[0-9a-f]{32}")


def blob_key(sha256: str) -> str:
    """Return where content lies. Raises: ValueError when that is no SHA-256 in hex."""
    return f"{BLOBS}{_checked(sha256, _SHA256)[:2]}/{sha256}"


def artifacts_prefix(project: str, run_id: str) -> str:
    """Return what the manifests of a run's artifacts start with."""
    return f"{RUNS}{run_key(project, run_id).hex()}/artifacts/"


def artifact_key(project: str, run_id: str, artifact: str) -> str:
    """Return the key of an artifact's manifest."""
    return f"{artifacts_prefix(project, run_id)}{_checked(artifact, _ARTIFACT)}.json"


def checkpoints_prefix(project: str, run_id: str) -> str:
    """Return what the manifests of a run's checkpoints start with; they sort by step."""
    return f"{RUNS}{run_key(project, run_id).hex()}/checkpoints/"


def checkpoint_key(
    project: str, run_id: str, *, step: int, attempt: str, rank: int, artifact: str
) -> str:
    """Return the key of the manifest of one rank's part of a checkpoint."""
    place = f"{step:019d}/{attempt_key(attempt):016x}-{rank:06d}-{_checked(artifact, _ARTIFACT)}"
    return f"{checkpoints_prefix(project, run_id)}{place}.json"


def tombstone_key(project: str, run_id: str) -> str:
    """Return the key that says that a run was deleted: nothing of it is published any more."""
    return f"{RUNS}{run_key(project, run_id).hex()}/deleted.json"


def names_prefix(project: str) -> str:
    """Return what the versions of all names of a project start with."""
    return f"{NAMES}{_name_key(project)}/"


def name_prefix(project: str, name: str) -> str:
    """Return what the versions of one name start with; they sort by their stamp."""
    return f"{names_prefix(project)}{_name_key(name)}/"


def version_key(project: str, name: str, *, stamp_ns: int, artifact: str) -> str:
    """Return the key of one version of a name."""
    return f"{name_prefix(project, name)}{stamp_ns:020d}-{_checked(artifact, _ARTIFACT)}.json"


def staging_prefix(artifact: str) -> str:
    """Return what an artifact's pieces start with."""
    return f"{STAGING}{_checked(artifact, _ARTIFACT)}/"


def _name_key(name: str) -> str:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _checked(text: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no id of the store")
    return text
