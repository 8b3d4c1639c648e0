"""Where the service sends messages: to public addresses only, and to the very address that was checked."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from urllib.parse import urlsplit

import httpx2

from service.settings import Settings

__all__ = ["PinnedTransport", "Refused", "check_url", "is_public"]

PORTS = {"https": 443, "http": 80}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is given out so far: loopback, link- and site-local, unique local, IPv4-compatible and local translation
prefixes (64:ff9b:1::/48) lie outside."""

TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # a gateway sends it on to the IPv4 address in its last half
SPECIAL = tuple(
    ipaddress.ip_network(each)
    for each in (
        "192.0.0.0/24",  # protocol assignments, of which newer tables call some global
        "192.88.99.0/24",  # relays that are no more
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)


class Refused(Exception):
    """The service does not send there; the message says why."""


def check_url(url: str, settings: Settings) -> None:
    """A message may be sent there as far as the text shows; names are resolved when it is sent. Raises Refused."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        httpx2.URL(url)  # what sends it has rules of its own, and finds out only then
        name = (parts.hostname or "").encode("idna").decode()
    except (ValueError, httpx2.InvalidURL) as problem:
        raise Refused(f"The webhook is not a URL: {str(problem).rstrip('.')}.") from problem
    schemes = ("https", "http") if settings.webhook_allow_http else ("https",)
    if parts.scheme not in schemes or not parts.hostname:
        raise Refused(f"The webhook must be {' or '.join(schemes)}://HOST/...")
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?", name):
        raise Refused("The webhook's host is not the name of one.")
    if parts.username is not None or parts.password is not None:
        raise Refused("The webhook must not carry a user name or password.")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        return
    _check_address(address, settings.webhook_allow_private)


def _check_address(address: Address, allow_private: bool) -> None:
    if not allow_private and not is_public(address):
        raise Refused("The webhook leads to an address that is not public.")


def is_public(address: Address) -> bool:
    """Whether it, and any IPv4 address that it stands for, is one of the public internet's."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and not _is_special(address)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in TRANSLATED:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None:
        return is_public(address.sixtofour)
    return address in UNICAST and address.is_global and not _is_special(address)


def _is_special(address: Address) -> bool:
    return any(address in each for each in SPECIAL)


class PinnedTransport(httpx2.BaseTransport):
    """Resolves the name once, refuses unless every address is public, and connects to the address that was checked.

    A name that resolves to something else a moment later (rebinding) makes no difference; certificates are checked
    against the name.
    """

    def __init__(self, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._inner = httpx2.HTTPTransport(verify=ssl.create_default_context(), trust_env=False)  # no proxy either

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        port = request.url.port or PORTS[request.url.scheme]
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as problem:
            raise httpx2.ConnectError(f"{host} cannot be resolved: {problem}") from problem
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        for address in addresses:
            _check_address(address, self._allow_private)
        headers = request.headers.copy()  # Host keeps the name
        extensions = {**request.extensions, "sni_hostname": host}
        pinned = request.url.copy_with(host=str(addresses[0]))
        return self._inner.handle_request(
            httpx2.Request(request.method, pinned, headers=headers, stream=request.stream, extensions=extensions)
        )

    def close(self) -> None:
        self._inner.close()
