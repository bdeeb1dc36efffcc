"""How often one client address may ask, over the library ``limits``; in memory, about 10 microseconds a request."""

from __future__ import annotations

import ipaddress

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter


class Rates:
    """At most ``per_second`` requests a second from each address; IPv6 addresses by their first 64 bits. 0: no limit."""

    def __init__(self, per_second: int):
        self._item = RateLimitItemPerSecond(per_second) if per_second else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage()) if per_second else None

    def admits(self, address: str) -> bool:
        """Whether a request from ``address`` may pass now; it is counted."""
        return self._limiter is None or self._limiter.hit(self._item, _network(address))


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.split("%")[0])
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Network((found, 64), strict=False).network_address)
