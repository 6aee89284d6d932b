"""The job a run belongs to: run id, attempt, rank, environment."""
