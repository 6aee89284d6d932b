"""Pace of the looks at spool folders: fresh news soon, and a spool at rest for next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LookPace"]

IDLE_LOOK_S = 0.1  # how often an idle spool is looked at
MUCH_BYTES = 128 * 1024  # after this much the next look is worth while at once
REST_SHARE = 3  # rest this many times as long as a look took
IDLE_REST_SHARE = 50  # the same after a look without news: a spool at rest costs 2 % of a core


@dataclass(slots=True)
class LookPace:
    """Time of the next look at the folders: at once after much news, else after a rest.

    After little news it waits `gather_s` for more. A look that took long is followed by a longer
    rest, of at most `rest_s_max`.
    """

    gather_s: float
    rest_s_max: float
    next_s: float = float("-inf")

    def note(self, *, begin_s: float, end_s: float, has_news: bool, news_bytes: int) -> None:
        """Plan the next look after one from `begin_s` to `end_s`."""
        if news_bytes >= MUCH_BYTES:
            self.next_s = end_s
            return
        share = REST_SHARE if has_news else IDLE_REST_SHARE
        rest_s = min(self.rest_s_max, share * (end_s - begin_s))
        self.next_s = end_s + max(self.gather_s if has_news else IDLE_LOOK_S, rest_s)

    def hurry(self) -> None:
        """Make the next look due now."""
        self.next_s = float("-inf")
