"""Parameters and final values of a run, as JSON text."""
