"""What the first and the second signal mean to a worker."""

from runwire_consumers.core.errors import SkipFlush


class Stop:
    """The wish to end: first in order, then at once.

    Threads: `signal` runs in the main thread, as signal handlers do, or in a test.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._is_skipped = False

    def signal(self) -> None:
        """Ask for an orderly end; asked again, leave at once.

        Raises: SkipFlush at the second call, wherever the worker stands; later calls are ignored,
        so that releasing handles is not interrupted.
        """
        if not self.is_requested:
            self.is_requested = True
        elif not self._is_skipped:
            self._is_skipped = True
            raise SkipFlush
