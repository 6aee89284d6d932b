"""The object store in a folder: the embedded default, and shared file systems."""
