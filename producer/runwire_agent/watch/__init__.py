"""Watching trainers: heartbeats of the living, records of how the dead ended."""
