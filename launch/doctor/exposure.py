"""Who can use a Redis that a configuration names, and what can be read on the way to it."""

import ipaddress
import socket
from collections.abc import Iterator

from ...broker.address import Address
from ...broker.client import is_open_to_all
from .finding import Finding, ok, problem, warning

ANSWER_S = 4.0
CHECK = "redis exposure"


def look_at_exposure(url: str) -> Iterator[Finding]:
    """Whether it is open to whoever reaches it, and whether its password and all else travels in clear."""
    address = Address.of(url)
    if address.spoken_to is None:
        yield ok(CHECK, "a Unix socket: only this machine, by the rights of the file")
        return
    encrypted, open_to_all = _is_tls(address), is_open_to_all(url, timeout_s=ANSWER_S)
    password = "no password" if open_to_all else "a password"
    if is_loopback(address.spoken_to[0]):
        if open_to_all:
            remedy = "set requirepass (or ACL users) there, and AREAL_REDIS_PASSWORD here"
            yield warning(
                CHECK, "on loopback without a password: whoever is on this machine can change the run", remedy
            )
        else:
            yield ok(CHECK, "on loopback, with a password")
        return
    if open_to_all:
        yield problem(
            CHECK,
            "it is on the network and asks for no password: whoever reaches it can change the run",
            "set requirepass (or ACL users) there, and AREAL_REDIS_PASSWORD here",
        )
    if not encrypted:
        yield warning(
            CHECK,
            f"it is on the network with {password} and without TLS: what travels can be read on the way, that too",
            "rediss://… in broker.url (TLS), or see that the network is your own",
        )
    elif not open_to_all:
        yield ok(CHECK, "on the network, with a password and TLS")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its loopback interface, and by no other."""
    try:
        found = {each[4][0] for each in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(each).is_loopback for each in found)


def _is_tls(address: Address) -> bool:
    kind = address.options.get("connection_class")
    return kind is not None and "SSL" in kind.__name__
