"""Keys of the store, built from ids alone: no name that a user typed becomes a path.

blobs/<2 hex>/<sha256>                                              content
runs/<run key>/artifacts/<artifact>.json                            manifest
runs/<run key>/checkpoints/<step>/<attempt>-<rank>-<artifact>.json  manifest of a checkpoint
runs/<run key>/deleted.json                                         the run is gone for good
archives/<run key>/manifest.json                                    a run's rows are archived
archives/<run key>/<stamp>-<table>-<part>.parquet                   rows of an archived run
names/<project key>/<name key>/<stamp>-<artifact>.json              one version of a name
staging/<artifact>/<sha256>/…                                       pieces of unfinished content
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from runwire_schemas.identity import attempt_key, run_key

__all__ = [
    "ARCHIVES",
    "BLOBS",
    "NAMES",
    "RUNS",
    "STAGING",
    "archive_key",
    "archive_manifest_key",
    "archive_prefix",
    "artifact_key",
    "artifacts_prefix",
    "blob_key",
    "check_key",
    "check_key_prefix",
    "checkpoint_key",
    "checkpoints_prefix",
    "name_prefix",
    "names_prefix",
    "run_prefix",
    "staging_prefix",
    "tombstone_key",
    "version_key",
]

ARCHIVES: Final = "archives/"
BLOBS: Final = "blobs/"
NAMES: Final = "names/"
RUNS: Final = "runs/"
STAGING: Final = "staging/"

# The longest key of S3; in a folder each part of a key is a file name, hence no leading dot.
KEY_BYTES_MAX: Final = 1024
_NAME = r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*"
_KEY = re.compile(f"{_NAME}(/{_NAME})*")
_PREFIX = re.compile(f"({_NAME}/)*({_NAME})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARTIFACT = re.compile(r"[0-9a-f]{32}")


def blob_key(sha256: str) -> str:
    """Return the key of content. Raises: ValueError for anything but a SHA-256 in hex."""
    return f"{BLOBS}{_check_id(sha256, _SHA256)[:2]}/{sha256}"


def run_prefix(project: str, run_id: str) -> str:
    """Return the prefix of everything that names a run."""
    return f"{RUNS}{run_key(project, run_id).hex()}/"


def artifacts_prefix(project: str, run_id: str) -> str:
    """Return the prefix of the manifests of a run's artifacts."""
    return f"{run_prefix(project, run_id)}artifacts/"


def artifact_key(project: str, run_id: str, artifact: str) -> str:
    """Return the key of an artifact's manifest."""
    return f"{artifacts_prefix(project, run_id)}{_check_id(artifact, _ARTIFACT)}.json"


def checkpoints_prefix(project: str, run_id: str) -> str:
    """Return the prefix of the manifests of a run's checkpoints; their keys sort by step."""
    return f"{run_prefix(project, run_id)}checkpoints/"


def checkpoint_key(
    project: str, run_id: str, *, step: int, attempt: str, rank: int, artifact: str
) -> str:
    """Return the key of the manifest of one rank's part of a checkpoint."""
    place = f"{step:019d}/{attempt_key(attempt):016x}-{rank:06d}-{_check_id(artifact, _ARTIFACT)}"
    return f"{checkpoints_prefix(project, run_id)}{place}.json"


def tombstone_key(project: str, run_id: str) -> str:
    """Return the key that marks a run as deleted: nothing of it is published any more."""
    return f"{run_prefix(project, run_id)}deleted.json"


def archive_prefix(project: str, run_id: str) -> str:
    """Return the prefix of everything in the archive of a run."""
    return f"{ARCHIVES}{run_key(project, run_id).hex()}/"


def archive_manifest_key(project: str, run_id: str) -> str:
    """Return the key of the manifest of a run's archive, which makes the archive valid."""
    return f"{archive_prefix(project, run_id)}manifest.json"


def archive_key(project: str, run_id: str, *, stamp_ms: int, table: str, part: int) -> str:
    """Return the key of one part of a table's rows in a run's archive."""
    return f"{archive_prefix(project, run_id)}{stamp_ms:014d}-{table}-{part:05d}.parquet"


def names_prefix(project: str) -> str:
    """Return the prefix of the versions of all names of a project."""
    return f"{NAMES}{_name_key(project)}/"


def name_prefix(project: str, name: str) -> str:
    """Return the prefix of the versions of one name; their keys sort by stamp."""
    return f"{names_prefix(project)}{_name_key(name)}/"


def version_key(project: str, name: str, *, stamp_ns: int, artifact: str) -> str:
    """Return the key of one version of a name."""
    return f"{name_prefix(project, name)}{stamp_ns:020d}-{_check_id(artifact, _ARTIFACT)}.json"


def staging_prefix(artifact: str) -> str:
    """Return the prefix of an artifact's staged pieces."""
    return f"{STAGING}{_check_id(artifact, _ARTIFACT)}/"


def check_key(key: str) -> str:
    """Return the key. Raises: ValueError unless this module could have built it."""
    if len(key) > KEY_BYTES_MAX or not _KEY.fullmatch(key):
        raise ValueError(f"{key[:80]!r} is no key of a store: build keys with `layout`")
    return key


def check_key_prefix(prefix: str) -> str:
    """Return a prefix of keys. Raises: ValueError when no key can start with it."""
    if len(prefix) > KEY_BYTES_MAX or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix[:80]!r} is no prefix of keys: build it with `layout`")
    return prefix


def _name_key(name: str) -> str:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _check_id(text: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no id of the store")
    return text
