"""The trainer's process: how it ends, signals that announce a pre-emption, notebooks."""
