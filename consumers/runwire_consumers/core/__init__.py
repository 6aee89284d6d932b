"""The worker's loop and its protocols, without any driver: source, batch, sink, dead letters."""
