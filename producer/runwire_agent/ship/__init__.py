"""Shipping duty of the agent: spool folders of the Kafka route become messages at brokers.

Nothing here is imported by a trainer, except by one that asked for the agent as a thread.
"""
