"""Access rules of the HTTP server.

A request is allowed by an open path, by the token, or by its source address, if the operator
permits that. Trust in this machine depends on the kernel's record of the other end's process
(`owner`), never on the absence of a header: a proxy need not add any. In addition, a request is
refused if it shows a proxy, or if ``Host`` names another machine, as it does for a foreign web
page. A page's script can set almost any header, so no header exempts a request from that.
"""

import hmac
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from aiohttp import HttpVersion11, web

from dstack_vpn.adapters.web.client import (
    forwarded_client,
    is_plain_host,
    names_our_port,
    parse_address,
    shows_a_proxy,
)
from dstack_vpn.adapters.web.owner import TRUSTED, End, owner_of
from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.limits.shares import Network, Source, Sources
from dstack_vpn.errors import FormatError

FORWARD_AUTH: Final = "/auth"
_LOOPBACK: Final[tuple[Network, ...]] = (
    ipaddress.IPv4Network("127.0.0.0/8"),
    ipaddress.IPv6Network("::1/128"),
)

_WRONG: Final = "send the API token: 'Authorization: Bearer …' (API_TOKEN_FILE contains it)"
_CLOSED: Final = (
    "without a token, only processes of root and of the daemon's own user have access (API_OPEN_TO): set "
    "API_TOKEN_FILE, and send that token"
)
_REBOUND: Final = (
    "the 'Host' header does not name this machine: use an IP address, localhost, or the API token"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason for refusing a request."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's access settings."""

    token: str | None = field(default=None, repr=False)
    loopback: bool = True
    """True if processes of root and of the daemon's own user on this machine need no token."""
    users: bool = False
    """True if no process on this machine needs the token."""
    proxies: tuple[Network, ...] = _LOOPBACK
    """Trusted proxies: their headers name the client; forward-auth needs no token from them."""
    suffix: str | None = None
    """The zone of the network's own names."""
    is_member: Callable[[IPAddress], bool] | None = None
    """Returns whether a member has that tunnel address and needs no token; None: all need one."""
    members: AddressPlan | None = None
    """The address plan of the tunnel, by which limits count members."""
    owner: Callable[[End, End], int | None] = owner_of
    """Returns the user id of a connection's other end, if that is on this machine; else None."""
    _owners: "WeakKeyDictionary[object, int | None]" = field(default_factory=WeakKeyDictionary, repr=False)
    """The owners by transport: an owner stays the same for a connection."""

    @property
    def sources(self) -> Sources:
        """The parties that limits count."""
        return Sources(self.members, self.proxies)

    def refusal(self, request: web.Request, *, is_open: bool) -> Refusal | None:
        """Return the reason for not answering a request; None if it is allowed."""
        peer = peer_of(request)
        if is_open:
            rebound = _is_here(request, peer) and not self._is_plain(request)
            return Refusal(421, _REBOUND) if rebound and not self._has_token(request) else None
        if self.asks_for_a_client(request, peer):
            # The proxy forwards its client's Authorization, which is not for this server, and often
            # its Host. A browser on this machine that sends a request directly also names this
            # server's port; a client of a proxy does not.
            rebound = _is_here(request, peer) and not self._is_plain(request) and _names_our_port(request)
            return Refusal(421, _REBOUND) if rebound else None
        if self._has_token(request):
            return None
        if peer is None or not self._open_to(peer, request) or self.by_proxy(request):
            return Refusal(401, _CLOSED if self.token is None else _WRONG)
        return None if self._is_plain(request) else Refusal(421, _REBOUND)

    def client(self, request: web.Request) -> IPAddress | None:
        """Return a request's client; for a trusted proxy's forward-auth, the proxy's client."""
        peer = peer_of(request)
        if peer is None or not self.asks_for_a_client(request, peer):
            return peer
        try:
            return behind(request, peer, self.proxies)
        except FormatError:
            return peer

    def asks_for_a_client(self, request: web.Request, peer: IPAddress | None) -> bool:
        """Return True for a trusted proxy's forward-auth request about its client."""
        forward_auth = f"{request.path}/".startswith(f"{FORWARD_AUTH}/")
        return forward_auth and peer is not None and self.trusts(peer)

    def _is_plain(self, request: web.Request) -> bool:
        return is_plain_host(request.headers.get("Host"), self.suffix)

    def trusts(self, peer: IPAddress) -> bool:
        """Return True for a trusted proxy."""
        return any(peer in network for network in self.proxies if network.version == peer.version)

    def _open_to(self, peer: IPAddress, request: web.Request) -> bool:
        owner = self._owner(request)
        if owner is None:  # on another machine
            return self.is_member is not None and self.is_member(peer)
        return self.users or (self.loopback and owner in TRUSTED)

    def _owner(self, request: web.Request) -> int | None:
        transport = request.transport
        if transport is None:
            return None
        if transport not in self._owners:
            ends = (transport.get_extra_info(end)[:2] for end in ("peername", "sockname"))
            self._owners[transport] = self.owner(*ends)
        return self._owners[transport]

    @staticmethod
    def by_proxy(request: web.Request) -> bool:
        """Return True if a request shows that a proxy forwarded it; False proves nothing."""
        # Of the clients that still use HTTP/1.0, nginx forwards requests of others.
        return request.version < HttpVersion11 or shows_a_proxy(request.headers)

    def _has_token(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if self.token is None or scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.token.encode())


def behind(request: web.Request, peer: IPAddress, proxies: Sequence[Network]) -> IPAddress:
    """Return the client of a request that ``peer`` has sent; raises `FormatError` if unknown."""
    forwarded = request.headers.getall("X-Forwarded-For", [])
    return forwarded_client(peer, forwarded, request.headers.getall("X-Real-IP", []), proxies)


def _is_here(request: web.Request, peer: IPAddress | None) -> bool:
    """Return True for a request from this machine, by loopback or by its own address."""
    return peer is not None and (peer.is_loopback or peer == _address_of(request, "sockname"))


def _names_our_port(request: web.Request) -> bool:
    own = None if request.transport is None else request.transport.get_extra_info("sockname")
    return own is not None and names_our_port(request.headers.get("Host"), own[1])


def peer_of(request: web.Request) -> IPAddress | None:
    """Return the address of the connection's other end."""
    return _address_of(request, "peername")


def source_of(request: web.Request, sources: Sources) -> Source:
    """Return the party at the connection's other end, regardless of the request's headers."""
    return sources.of(peer_of(request), _address_of(request, "sockname"))


def _address_of(request: web.Request, end: str) -> IPAddress | None:
    found = None if request.transport is None else request.transport.get_extra_info(end)
    try:
        return None if not found else parse_address(found[0])
    except FormatError:
        return None
