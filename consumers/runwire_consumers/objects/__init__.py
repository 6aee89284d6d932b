"""Artifacts on the Kafka route: pieces become objects; and the bucket that they live in."""
