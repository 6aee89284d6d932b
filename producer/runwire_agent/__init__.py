"""The node process that watches trainers: heartbeats while they live, a record when they die.

It keeps no state of its own: killed at any moment, the next one goes on from the spool folders.
"""
