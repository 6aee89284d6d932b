"""The node process: watches trainers, ships their spool, uploads their artifacts.

It promises nothing from memory: killed at any moment, the next agent resumes from the disk.
"""
