"""The outbox: artifacts and checkpoints that wait on disk for upload, one folder per request."""
