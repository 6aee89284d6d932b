"""Writer's side of the spool: folders, preallocated segments, records, quota."""
