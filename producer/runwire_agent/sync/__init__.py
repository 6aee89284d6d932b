"""Delivery on demand: everything in spool and outbox once, or moved to another destination."""
