"""The read commands: `sql`, `runs`, `show`, `tail`."""
