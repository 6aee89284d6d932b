"""What producers and consumers agree on: events, their bytes, topics, keys and the spool format."""
