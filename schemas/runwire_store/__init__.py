"""Artifacts and checkpoints in an object store: what trainers, agents and workers agree on.

The store alone is readable without ClickHouse: content by SHA-256, small JSON manifests beside it.
"""
