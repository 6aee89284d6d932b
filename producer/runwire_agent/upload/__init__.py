"""The uploading half of the agent: artifacts from the outbox to the object store."""
