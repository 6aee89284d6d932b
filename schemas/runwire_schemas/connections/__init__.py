"""Connections to Kafka, S3 and ClickHouse: settings tables, secrets, addresses; no drivers."""
