"""The outbox: the trainer's half of an upload, captured at the call and staged for the agent."""
