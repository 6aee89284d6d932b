"""Composition of workers: which source feeds which sink."""
