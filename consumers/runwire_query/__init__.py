"""The read side for people and scripts: runs, metrics, artifacts and checkpoints.

It reads the documented views (`v_...`) of ClickHouse, never base tables, and the object store.

    commands/    arguments, exit status, `--json`          imports text and api
    text/        tables, pages, numbers, sparklines        imports api
    plot         learning curves as a picture
    api/         functions that return frozen dataclasses  imports connection and storage
    connection   the ClickHouse of this machine or team
    storage      the object store of this machine or team
"""
