"""Typed answers about what is stored: every function returns frozen dataclasses.

Nothing here prints or formats. Times are UTC-aware. Modules: runs, metrics, follow, artifacts,
checkpoints, and lineage (runs and artifacts as the views relate them).
"""
