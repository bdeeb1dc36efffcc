"""Tells addresses of the public network from those inside one, for whoever fetches a file that somebody else named.

A name is resolved once and the connection goes to the address found, so that it cannot point elsewhere a moment later. Costs one
look-up of the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

_WRAPPING = [ipaddress.ip_network(network) for network in ("64:ff9b::/96", "2002::/16", "2001::/32", "::ffff:0:0/96", "::/96")]
"""IPv6 addresses that stand for one of IPv4, which may be any."""


class NotPublic(Exception):
    """A host of which some address is private, loopback or reserved."""


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether ``address`` can be one of a public server.

    >>> [is_public(ipaddress.ip_address(a)) for a in ("93.184.215.14", "10.0.0.1", "169.254.169.254")]
    [True, False, False]
    """
    return address.is_global and not address.is_multicast and not any(address in network for network in _WRAPPING)


async def address_of(host: str, inside: bool = False) -> str:
    """The address that ``host`` (a name or an address) has now, fit to connect to.

    Raises NotPublic where one of its addresses is inside a network, unless ``inside`` allows that, and OSError where it has none
    or ``host`` can be no name (an empty part, or one of more than 63 signs).
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(f"{host[:100]} is no name of a host") from None
    addresses = [ipaddress.ip_address(entry[4][0].split("%")[0]) for entry in found]
    if not inside and not all(map(is_public, addresses)):
        raise NotPublic(host)
    return str(addresses[0])
