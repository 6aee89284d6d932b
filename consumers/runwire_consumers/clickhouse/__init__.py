"""Everything that talks to ClickHouse: engine, migrations, blocks, sink."""
