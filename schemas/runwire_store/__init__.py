"""Artifacts and checkpoints in an object store: the format shared by SDK, agent and workers.

Metrics are shipped, artifacts are uploaded, the store holds objects: content by SHA-256 and small
JSON manifests, readable without ClickHouse.
"""
