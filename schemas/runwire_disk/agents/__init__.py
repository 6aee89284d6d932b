"""Agents of a data root: the lock that elects one, and the state that it writes for others."""
