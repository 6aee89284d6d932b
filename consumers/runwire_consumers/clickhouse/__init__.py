"""ClickHouse for workers: client, embedded engine, migrations, Native blocks, sink."""
