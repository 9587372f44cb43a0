"""The endpoint of a peer: by UDP, over relays, or both, as one text.

    vpn.example.org:51820                                  by UDP, as WireGuard itself does
    udp://vpn.example.org:51820                            the same
    vpn.example.org:51820,tls://vpn.example.org:443?pin=…  by UDP, or over a relay if UDP is blocked
    via:gw-1                                               a plain client of the node gw-1, alone

One malformed alternative makes the whole endpoint malformed: the rest may not be meant to be used
alone.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

from dstack_vpn.core.model import Endpoint, TokenId, parse_node_id
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.errors import FormatError

RELAYS: Final = 4
"""Relays that an endpoint may name: enough for two each at two providers, and few to try."""
REACH_LENGTH: Final = 1024
"""Characters of the canonical text; a registry contract allows fewer."""
_UDP: Final = "udp://"
_VIA: Final = "via:"


@dataclass(frozen=True, slots=True)
class PeerEndpoint:
    """The alternatives of a peer's endpoint: at least one, or the gateway of a plain client."""

    udp: Endpoint | None = None
    relays: tuple[RelayUrl, ...] = ()
    """In order of preference."""
    local: bool = False
    """This node's operator wrote it: its relays may name files, proxies and this machine."""
    via: str | None = None
    """The node id of the gateway of a plain client, which has no other endpoint."""

    @classmethod
    def parse(cls, text: str, *, local: bool = False) -> Self:
        """Parse comma-separated alternatives; raises `FormatError` that names the malformed one.

        ``local`` text is the operator's: its relays may name files and proxies of this machine. For
        all other text, ``str`` returns every part of it.
        """
        if text.startswith(_VIA):
            return cls(via=_gateway(text.removeprefix(_VIA), local=local))
        if "," not in text and "://" not in text:
            return cls(Endpoint.parse(text), local=local)
        parts = split_alternatives(text)
        if len(text) > REACH_LENGTH or len(parts) > 1 + RELAYS:
            raise FormatError(f"endpoint: more than {REACH_LENGTH} characters or {1 + RELAYS} alternatives")
        found = [_alternative(part, number, len(parts), local=local) for number, part in enumerate(parts, 1)]
        udp = [alternative for alternative in found if isinstance(alternative, Endpoint)]
        relays = dict.fromkeys(alternative for alternative in found if isinstance(alternative, RelayUrl))
        if len(udp) > 1 or len(relays) > RELAYS:
            raise FormatError(f"endpoint: expected one UDP address and {RELAYS} relays at most")
        peer_endpoint = cls(udp[0] if udp else None, tuple(relays), local)
        # The canonical text can be a little longer, and must be readable from the store.
        if len(str(peer_endpoint)) > REACH_LENGTH:
            raise FormatError(f"endpoint: longer than {REACH_LENGTH} characters")
        return peer_endpoint

    def refusal(self, destinations: Destinations) -> str | None:
        """Return the reason to refuse one of its addresses, or None.

        Names are checked when they are resolved.
        """
        hosts = [relay.host for relay in self.relays]
        if self.udp is not None:
            hosts.append(self.udp.host)
        allowed = replace(destinations, local=self.local)
        return next(filter(None, map(allowed.refusal, hosts)), None)

    def __str__(self) -> str:
        """Return the canonical text; a relay's proxy is hidden, since it may contain a password."""
        if self.via is not None:
            return f"{_VIA}{self.via}"
        udp = () if self.udp is None else (str(self.udp),)
        return ",".join((*udp, *map(str, self.relays)))


def split_alternatives(text: str) -> list[str]:
    """Split at commas, except those between two pins of one URL."""
    parts: list[str] = []
    for part in text.split(","):
        if parts and part.startswith("sha256:"):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def _gateway(text: str, *, local: bool) -> str:
    if local:
        raise FormatError("endpoint: only the registry can name a gateway (via:)")
    try:
        return parse_node_id(text)
    except FormatError:
        raise FormatError("endpoint: via: needs the node id of a gateway, and nothing else") from None


def _alternative(text: str, number: int, count: int, *, local: bool) -> Endpoint | RelayUrl:
    try:
        if text.startswith(_UDP) or "://" not in text:
            return Endpoint.parse(text.removeprefix(_UDP))
        return RelayUrl.parse(text, local=local)
    except FormatError as error:
        which = f"alternative {number}: " if count > 1 else ""
        raise FormatError(f"endpoint: {which}{str(error).removeprefix('endpoint: ')}") from None


def fill_template(template: str, node_id: str, token_id: TokenId) -> str:
    """Replace ``{node_id}`` and ``{token_id}``."""
    return template.replace("{node_id}", node_id).replace("{token_id}", str(token_id))
