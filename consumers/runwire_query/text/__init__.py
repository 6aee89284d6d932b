"""Text for terminals and pipes: tables, numbers, sparklines, progress."""
