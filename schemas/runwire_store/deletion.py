"""Deletes what a run has in a store: its manifests; content that nobody else names is swept."""

from __future__ import annotations

from runwire_store.layout import artifacts_prefix, checkpoints_prefix, tombstone_key
from runwire_store.store import ObjectStore

__all__ = ["delete_objects", "is_deleted"]


def delete_objects(store: ObjectStore, project: str, run_id: str) -> int:
    """Delete a run's manifests for good and return how many; again is harmless.

    The tombstone comes first, so that an upload which is still on its way publishes nothing.
    Raises: StoreAway, StoreRefused.
    """
    store.put(tombstone_key(project, run_id), b"{}")
    prefixes = (artifacts_prefix(project, run_id), checkpoints_prefix(project, run_id))
    keys = [stat.key for prefix in prefixes for stat in store.list(prefix)]
    store.delete(keys)
    return len(keys)


def is_deleted(store: ObjectStore, project: str, run_id: str) -> bool:
    """Tell whether a run was deleted. Raises: StoreAway, StoreRefused."""
    return store.stat(tombstone_key(project, run_id)) is not None
