"""Metrics: from a `log()` call to a committed record in the spool."""
