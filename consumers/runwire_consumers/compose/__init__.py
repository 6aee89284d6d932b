"""Composition of the two workers: the only modules that know both ends."""
