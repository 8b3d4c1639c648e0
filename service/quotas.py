"""How fast one key may ask, and how much at once.

Counted in this process: it keeps bursts away; what must be exact is counted in SQL.
"""

from __future__ import annotations

import math
import time
from collections import Counter

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from service.auth import Principal
from service.problems import TooManyRequests

__all__ = ["Crowd", "RateLimits"]

WRONG_KEYS_PER_MINUTE = 30
RETRY_SECONDS = 5


class RateLimits:
    """One sliding minute for each key, and for each address that sends wrong keys."""

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._wrong = RateLimitItemPerMinute(WRONG_KEYS_PER_MINUTE)

    def count(self, principal: Principal) -> None:
        """The request is counted; raises TooManyRequests."""
        allowed = principal.allowance.requests_per_minute
        if allowed:
            self._hit(RateLimitItemPerMinute(allowed), principal.owner)

    def count_wrong_key(self, address: str) -> None:
        """A wrong key from this address is counted; raises TooManyRequests."""
        self._hit(self._wrong, f"wrong-key {address}")

    def _hit(self, limit: RateLimitItemPerMinute, name: str) -> None:
        if not self._limiter.hit(limit, name):
            reset = self._limiter.get_window_stats(limit, name).reset_time
            raise TooManyRequests(max(1, math.ceil(reset - time.time())))


class Crowd:
    """How many requests are under way by name; one event loop alone may use it."""

    def __init__(self) -> None:
        self._inside: Counter[str] = Counter()

    def enter(self, name: str, most: int) -> None:
        """One more is under way; raises TooManyRequests if there are as many as may be."""
        if self._inside[name] >= most:
            raise TooManyRequests(RETRY_SECONDS)
        self._inside[name] += 1

    def leave(self, name: str) -> None:
        self._inside[name] -= 1
        if self._inside[name] <= 0:
            del self._inside[name]
