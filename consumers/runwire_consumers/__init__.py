"""The workers: records to ClickHouse, artifacts to the object store; and the embedded stack."""
