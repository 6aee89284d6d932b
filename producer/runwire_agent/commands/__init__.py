"""Commands of a node: `agent`, `spool`, `sync`, `status`, `doctor`."""
