"""Connection settings: rows of settings tables, and how to reach Kafka and S3."""

from typing import Final

# Here, because a trainer without brokers or S3 imports neither `topics` nor a connection.
DEFAULT_TOPIC_PREFIX: Final = "runwire"
DEFAULT_BUCKET: Final = "runwire"
