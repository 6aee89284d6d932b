"""Artifacts: files and values that a run keeps, made safe at the call and shipped by the agent."""
