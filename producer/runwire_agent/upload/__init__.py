"""From the outbox to the object store: requests that a trainer leaves, and the agent's half."""
