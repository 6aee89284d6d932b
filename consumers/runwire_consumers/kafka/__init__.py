"""Kafka for workers: source, dead letters, own events, topics and access rights."""
