"""Kafka: the source of the workers, their dead letters, the topics."""
