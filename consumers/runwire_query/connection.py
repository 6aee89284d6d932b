"""Finds the ClickHouse of this machine or team and asks it questions."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runwire_disk import paths
from runwire_query.errors import QueryError

URL_VARIABLE = "RUNWIRE_CLICKHOUSE_URL"
DATABASE = "runwire"
CONNECT_TIMEOUT_S = 5
QUERY_TIMEOUT_S = 300
STREAM_SETTINGS = {"output_format_json_array_of_rows": 1, "output_format_arrow_string_as_string": 1}
AUTH_CODES = {"194", "516"}  # REQUIRED_PASSWORD, AUTHENTICATION_FAILED
UNKNOWN_TABLE = "60"
NO_DATABASE = {"81"}  # UNKNOWN_DATABASE


@dataclass(frozen=True, slots=True)
class Address:
    """A URL and where it was found, for messages."""

    url: str
    source: str

    @property
    def place(self) -> str:
        """Host and port without the password."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or 8123}"


def find_address(root: Path) -> Address:
    """$RUNWIRE_CLICKHOUSE_URL, else the embedded engine of this data folder.

    Raises: QueryError when there is neither.
    """
    url = os.environ.get(URL_VARIABLE)
    if url:
        return Address(url, f"${URL_VARIABLE}")
    file = paths.connection_file(root)
    try:
        return Address(json.loads(file.read_text(encoding="utf-8"))["reader_url"], str(file))
    except FileNotFoundError as error:
        raise QueryError(
            f"no ClickHouse is known for {root}: start the embedded one with `runwire up`, "
            f"or set {URL_VARIABLE}=http://user:password@host:port/runwire"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QueryError(
            f"{file} is not readable ({error}); `runwire up` writes it anew"
        ) from error


class Reader:
    """A read-only conversation with one server."""

    def __init__(self, client: Any, address: Address) -> None:
        self._client = client
        self.address = address

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """All rows as dictionaries. Raises: QueryError."""
        try:
            result = self._client.query(sql, parameters=dict(parameters or {}))
        except Exception as error:
            raise self._readable(error) from error
        return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]

    def stream(self, sql: str, output_format: str | None) -> Iterable[bytes]:
        """The server's own output in a ClickHouse format, piece by piece. Raises: QueryError."""
        try:
            source = self._client.raw_stream(sql, fmt=output_format, settings=STREAM_SETTINGS)
            while piece := source.read(1 << 16):
                yield piece
        except Exception as error:
            raise self._readable(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _readable(self, error: Exception) -> Exception:
        return readable(error, self.address)


def connect(directory: str | None) -> Reader:
    """Open a connection. Raises: QueryError with a sentence. Blocks: at most 5 s."""
    import clickhouse_connect
    from clickhouse_connect import common

    address = find_address(paths.state_dir(directory))
    parts = urlsplit(address.url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise QueryError(f"{address.source} must look like http://user:password@host:port/database")
    common.set_setting("autogenerate_session_id", False)
    # It logs what it raises as well; ours is the sentence that people read.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    try:
        client = clickhouse_connect.get_client(
            dsn=address.url,
            database=parts.path.strip("/") or DATABASE,
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=QUERY_TIMEOUT_S,
        )
    except Exception as error:
        raise readable(error, address) from error
    return Reader(client, address)


def readable(error: Exception, address: Address) -> Exception:
    """Turn a driver's error into one sentence; what is no driver error stays what it is."""
    if not type(error).__module__.startswith(("clickhouse_connect", "urllib3")):
        return error
    text = str(error)
    code = re.search(r"Code: (\d+)\.", text)
    if code is None and "error code" not in text:
        return QueryError(
            f"nothing answers at {address.place} (from {address.source}); "
            "start it with `runwire up`, or `runwire doctor` looks closer"
        )
    if code is not None and code.group(1) in AUTH_CODES:
        return QueryError(
            f"{address.place} refuses the user or password of {address.source}; "
            "`runwire down` and `runwire up` write a fresh one, or correct the URL"
        )
    if code is not None and code.group(1) in NO_DATABASE:
        return QueryError(
            f"{address.place} has no runwire tables yet; `runwire up` or `runwire migrate`"
        )
    sentence = server_sentence(text)
    if code is not None and code.group(1) == UNKNOWN_TABLE and "'v_" in sentence:
        sentence += (
            " Either it is misspelt (`runwire sql 'SHOW TABLES'`), or run `runwire migrate`."
        )
    return QueryError(sentence)


def server_sentence(text: str) -> str:
    """The sentence of a ClickHouse error without the driver's and the server's decoration."""
    found = re.search(r"DB::Exception: (.*)", text, re.DOTALL)
    sentence = found.group(1) if found is not None else text
    sentence = re.sub(r"\s*\(version [^)]*(\)[^)]*)?\)", "", sentence)
    sentence = re.sub(r"\s*\(for url [^)]*\)", "", sentence)
    sentence = re.sub(r"(:|\.) (In scope|While processing|while executing) .*", ".", sentence)
    sentence = re.sub(r"\s*FORMAT [A-Za-z]+\.", ".", sentence)  # ours, not the user's
    # A syntax error lists every token that could stand there: no help, half a screen.
    sentence = re.sub(r"\. Expected one of: .*", ".", sentence, flags=re.DOTALL)
    return sentence.strip()
