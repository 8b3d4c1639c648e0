"""How fast one key may ask. Counted in this process: it keeps bursts away; what must be exact is counted in SQL."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from service.auth import Principal
from service.problems import TooManyRequests

__all__ = ["RateLimits"]

WRONG_KEYS_PER_MINUTE = 30


class RateLimits:
    """One sliding minute for each key, and for each address that sends wrong keys."""

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._wrong = RateLimitItemPerMinute(WRONG_KEYS_PER_MINUTE)

    def count(self, principal: Principal) -> None:
        """The request is counted; raises TooManyRequests."""
        allowed = principal.allowance.requests_per_minute
        if allowed is not None:
            self._hit(RateLimitItemPerMinute(allowed), principal.owner)

    def count_wrong_key(self, address: str) -> None:
        """A wrong key from this address is counted; raises TooManyRequests."""
        self._hit(self._wrong, f"wrong-key {address}")

    def _hit(self, limit: RateLimitItemPerMinute, name: str) -> None:
        if not self._limiter.hit(limit, name):
            reset = self._limiter.get_window_stats(limit, name).reset_time
            raise TooManyRequests(max(1, math.ceil(reset - time.time())))
