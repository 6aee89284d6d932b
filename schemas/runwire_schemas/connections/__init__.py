"""Connection settings: rows of settings tables, and how to reach Kafka and S3."""
