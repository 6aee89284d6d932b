"""Pool of clients for inserts side by side: a client serves one thread at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from clickhouse_connect.driver.client import Client

# An insert is half waiting for the disk and half work of one engine thread.
CLIENTS_MAX = 4


class ClientPool:
    """Clients of one ClickHouse, each opened at its first use.

    Threads: one calls it; `side_by_side` starts the others, and they end before it returns.
    """

    def __init__(self, open_client: Callable[[], Client]) -> None:
        self._open_client = open_client
        self._clients: dict[int, Client] = {}

    def first(self) -> Client:
        """Return the client of the calling thread."""
        return self._of(0)

    def side_by_side(self, tasks: Sequence[Callable[[Client], None]]) -> None:
        """Run the tasks, a few at a time; after a failure no other one begins.

        Raises: the first failure, once every task that had begun has ended.
        """
        left, failures = deque(tasks), list[BaseException]()

        def work(number: int) -> None:
            try:
                while not failures and (task := _next(left)) is not None:
                    task(self._of(number))
            except BaseException as error:
                failures.append(error)
                if number == 0 and not isinstance(error, Exception):
                    raise  # a signal: it ends the process, whatever the others are doing

        others = [
            # Daemons: a hanging insert must not hold up a process that skips its flush.
            threading.Thread(target=work, args=(number,), name="runwire-insert", daemon=True)
            for number in range(1, min(CLIENTS_MAX, len(tasks)))
        ]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Close every client."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _of(self, number: int) -> Client:
        if number not in self._clients:
            self._clients[number] = self._open_client()
        return self._clients[number]


def _next(left: deque[Callable[[Client], None]]) -> Callable[[Client], None] | None:
    try:
        return left.popleft()
    except IndexError:  # another thread took the last one
        return None
