"""The consumers' part of the `runwire` command: the embedded stack and what operators need."""
