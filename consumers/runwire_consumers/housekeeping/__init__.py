"""Housekeeping of stored runs: the removal of deleted rows, retention, archives."""
