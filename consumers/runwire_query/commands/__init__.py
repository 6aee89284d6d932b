"""The read commands: `sql`, `runs`, `show`, `tail`, `artifact` and `checkpoints`.

Each parses its arguments, calls `runwire_query.api`, and prints the text or `--json`.
"""
