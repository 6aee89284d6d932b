"""The embedded route: the spool as a source of records, and the journal of its batches."""
