"""The commands that need nothing but the SDK: `agent` and `spool`."""
