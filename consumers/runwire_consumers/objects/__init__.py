"""The object worker: assembles artifacts of the Kafka route, and maintains their bucket."""
