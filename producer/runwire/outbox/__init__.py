"""The trainer's half of an upload: content captured at the call and staged for the agent."""
