"""Checkpoints: saved atomically, found again, verified and loaded."""
