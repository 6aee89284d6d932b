"""Agents of a data root: the lock that elects one, and the state that it leaves for others."""
