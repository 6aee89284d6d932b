"""Sections of `runwire status` and checks of `runwire doctor` that a node contributes."""
