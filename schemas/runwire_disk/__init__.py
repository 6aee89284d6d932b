"""Files on a node's disk under the data root: spool, outbox and agent state.

The SDK writes them, the agent and the embedded worker read them; each format lives here once.
"""
