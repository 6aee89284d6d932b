"""The spool: crash-safe record log of one writer process, as both its writer and readers see it."""
