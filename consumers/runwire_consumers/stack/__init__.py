"""The embedded stack of one data folder: engine and worker under one supervisor."""
