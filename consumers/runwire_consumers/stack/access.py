"""Write access to the ClickHouse and the object store of a data root, for commands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runwire_consumers.stack.control import writer_url
from runwire_consumers.stack.state import StackError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from runwire_schemas.errors import RunwireError
    from runwire_store.store import ObjectStore


@contextmanager
def opened_client(root: Path) -> Iterator[Client]:
    """Connect to the ClickHouse of the data root, with write access, for the block.

    Raises: StackError when the server does not answer or refuses, also for calls of the block.
    """
    from runwire_consumers.clickhouse.client import CALL_ERRORS, connect, explain
    from runwire_consumers.core.errors import WorkerError

    url = writer_url(root)
    try:
        client = connect(url)
        try:
            yield client
        finally:
            client.close()
    except CALL_ERRORS as error:
        raise StackError(str(explain(error, url))) from error
    except WorkerError as error:
        raise StackError(str(error)) from error


@contextmanager
def opened_store(root: Path) -> Iterator[ObjectStore]:
    """Open the object store of the data root for the block.

    Raises: StackError with the store's sentence, also for calls of the block.
    """
    from runwire_schemas.connections import s3 as s3_settings
    from runwire_store.open import open_catalog, translating_store_errors

    def as_error(error: RunwireError) -> StackError:
        return StackError(str(error))

    with translating_store_errors(as_error):
        s3 = s3_settings.from_environment(os.environ)
    with open_catalog(s3, root, as_error) as catalog:
        yield catalog.store
