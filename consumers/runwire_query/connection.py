"""Connection to the ClickHouse of this machine or team: its address, and rows as dataclasses."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from runwire_disk import paths
from runwire_query.errors import QueryError
from runwire_schemas.connections.clickhouse import (
    URL_VARIABLE,
    ClickHouseAddress,
    ClickHouseSettings,
    ClickHouseSettingsError,
    error_code,
    error_sentence,
    explain_error,
    first_line,
    sentence_of,
    trouble_of,
)
from runwire_schemas.connections.clickhouse_troubles import ClickHouseTrouble

__all__ = ["Reader", "columns_of", "connect", "find_address", "has_address", "translate_error"]

CONNECT_TIMEOUT_S: Final = 5
QUERY_TIMEOUT_S: Final = 300
_STREAM_PIECE_BYTES: Final = 1 << 16
_UNKNOWN_TABLE: Final = 60


def _advice(setting: str, variable: str) -> str:
    return (
        f"Ask for less: one run, fewer columns, a LIMIT. Or end the query with SETTINGS {setting}"
        f"=NUMBER; {variable} raises the limit of every query of the embedded engine at its start."
    )


# What to do about the limits of the reader's profile, by the code of the error.
_LIMITS: Final = {
    158: _advice("max_rows_to_read", "RUNWIRE_ENGINE_QUERY_ROWS"),
    159: _advice("max_execution_time", "RUNWIRE_ENGINE_QUERY_S"),
    241: _advice("max_memory_usage", "RUNWIRE_ENGINE_QUERY_BYTES"),
    396: _advice("max_result_bytes", "RUNWIRE_ENGINE_RESULT_BYTES"),
}
# The statement is the user's own: the server's sentence says more about it than ours.
_OF_STATEMENT: Final = (
    ClickHouseTrouble.SCHEMA,
    ClickHouseTrouble.REFUSED,
    ClickHouseTrouble.ROWS,
)

RowT = TypeVar("RowT")


def has_address(root: Path) -> bool:
    """Return whether this process or data root names a ClickHouse. Raises: QueryError."""
    try:
        url = ClickHouseSettings.from_environment(os.environ).url
    except ClickHouseSettingsError as error:
        raise QueryError(str(error)) from error
    return bool(url) or paths.connection_file(root).exists()


def find_address(root: Path) -> ClickHouseAddress:
    """Return the address in $RUNWIRE_CLICKHOUSE_URL, else of the embedded engine of this folder.

    Raises: QueryError when there is neither, or the URL is malformed.
    """
    file = paths.connection_file(root)
    try:
        url = ClickHouseSettings.from_environment(os.environ).url
        if url:
            return ClickHouseAddress.parse(url)
        fields_of_file = json.loads(file.read_text(encoding="utf-8"))
        return ClickHouseAddress.parse(fields_of_file["reader_url"], source=str(file))
    except FileNotFoundError as error:
        raise QueryError(
            f"no ClickHouse is known for {root}: start the embedded one with `runwire up`, "
            f"or set {URL_VARIABLE}=http://user:password@host:port/runwire"
        ) from error
    except ClickHouseSettingsError as error:
        raise QueryError(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QueryError(
            f"{file} is not readable ({error}); `runwire up` writes it anew"
        ) from error


class Reader:
    """A read-only connection to one server. Threads: one at a time."""

    def __init__(self, client: Any, address: ClickHouseAddress) -> None:
        self._client = client
        self.address = address

    def read(
        self, row_type: type[RowT], sql: str, parameters: Mapping[str, Any] | None = None
    ) -> list[RowT]:
        """Return all rows as `row_type`, whose fields are the columns.

        Units: naive times of the server become UTC. Raises: QueryError.
        """
        rows = self.rows(sql, parameters)
        return [row_type(**{name: _aware(value) for name, value in row.items()}) for row in rows]

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return all rows as the driver's values by column name. Raises: QueryError."""
        try:
            result = self._client.query(sql, parameters=dict(parameters or {}))
        except Exception as error:
            raise translate_error(error, self.address) from error
        return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]

    def stream(self, sql: str, output_format: str | None) -> Iterable[bytes]:
        """Yield the server's own output in a ClickHouse format, in pieces. Raises: QueryError.

        No setting goes along: a user with `readonly=1` may change none.
        """
        try:
            source = self._client.raw_stream(sql, fmt=output_format)
            while piece := source.read(_STREAM_PIECE_BYTES):
                yield piece
        except Exception as error:
            raise translate_error(error, self.address) from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def columns_of(row_type: type) -> str:
    """Return the select list that `Reader.read` needs for a dataclass."""
    return ", ".join(f"`{field.name}`" for field in fields(row_type))


def connect(directory: str | None) -> Reader:
    """Open a connection. Raises: QueryError with a sentence. Blocks: at most 5 s."""
    import clickhouse_connect
    from clickhouse_connect import common
    from clickhouse_connect.driver.httputil import default_pool_manager

    address = find_address(paths.state_dir(directory))
    common.set_setting("autogenerate_session_id", False)
    # It logs what it raises as well; the QueryError is the sentence that people read.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    try:
        client = clickhouse_connect.get_client(
            **address.client_arguments(),
            database=address.database,
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=QUERY_TIMEOUT_S,
            pool_mgr=default_pool_manager() if address.is_direct else None,
        )
    except TypeError as error:
        if not address.options:
            raise
        raise QueryError(
            f"an option behind the ? of {address.source} is unknown ({error}): options are "
            "arguments of clickhouse_connect.get_client, for example ?ca_cert=/etc/ca.pem"
        ) from error
    except Exception as error:
        raise translate_error(error, address) from error
    return Reader(client, address)


def translate_error(error: Exception, address: ClickHouseAddress) -> Exception:
    """Return a driver's error as a QueryError of one sentence, any other error as it is."""
    if not type(error).__module__.startswith(("clickhouse_connect", "urllib3")):
        return error
    if (limit := _LIMITS.get(error_code(error) or 0)) is not None and _is_of_query(error):
        return QueryError(f"{first_line(error)} {limit}")
    trouble = trouble_of(error)
    if trouble is ClickHouseTrouble.TOO_LARGE:  # no block here: the statement needs too much
        passing = ClickHouseTrouble.PASSING
        return QueryError(sentence_of(passing, address, first_line(error)))
    if trouble not in _OF_STATEMENT:
        return QueryError(explain_error(error, address))
    sentence = error_sentence(str(error))
    if error_code(error) == _UNKNOWN_TABLE and "'v_" in sentence:
        sentence += (
            " Either it is misspelt (`runwire sql 'SHOW TABLES'`), or run `runwire migrate`."
        )
    return QueryError(sentence)


def _is_of_query(error: Exception) -> bool:
    """Return whether a limit of this query alone was reached, not that of the server's memory."""
    return "(total) memory limit" not in str(error)


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and not value.tzinfo else value
