"""The plain clients behind each gateway, kept current by decisions about single tokens.

A peer that is a gateway has the addresses of all of its clients. Deciding about all of them at each
change of one would delay a revocation: 400 addresses take about 5 ms. So the decisions are kept,
and only the tokens of a change are decided again.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.access.control import AccessControl, Decision, claimed
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Cidr, TokenId
from dstack_vpn.core.wireguard.keys import PublicKey

_NO_CLIENTS: Final[Mapping[TokenId, Decision]] = {}


@dataclass(slots=True)
class GatewayClients:
    """The grants of plain clients, by the token of the gateway that forwards for each."""

    _grants: dict[TokenId, Decision] = field(default_factory=dict)
    """The grant of each client."""
    _behind: dict[TokenId, dict[TokenId, Decision]] = field(default_factory=dict)
    """The same by gateway."""
    _addresses: dict[TokenId, set[Cidr]] = field(default_factory=dict)
    """The addresses of the clients behind each gateway."""

    def __iter__(self) -> Iterator[TokenId]:
        return iter(self._grants)

    def __getitem__(self, client: TokenId) -> Decision:
        return self._grants[client]

    def update(self, access: AccessControl, tokens: Iterable[TokenId], now: float) -> list[TokenId]:
        """Decide about these tokens again; returns the clients whose grant has changed.

        Tokens that are not clients are skipped. ``now`` is in Unix seconds.
        """
        changed = []
        for token in tokens:
            old, node = self._grants.get(token), access.registry.get(token)
            if old is None and (node is None or node.via is None):
                continue
            decision = access.decide(token, now)
            new = None if decision.gateway is None else decision
            if new != old:
                self._put(token, new, access.addresses.allowed_ips(token))
                changed.append(token)
        return changed

    def behind(self, gateway: TokenId) -> AbstractSet[TokenId]:
        """Return the clients behind a gateway."""
        return self._behind.get(gateway, _NO_CLIENTS).keys()

    def addresses(self, gateway: TokenId) -> AbstractSet[Cidr]:
        """Return the addresses of the clients behind a gateway."""
        return self._addresses.get(gateway, frozenset())

    def gateway_key(self, client: TokenId) -> PublicKey | None:
        """Return the key of a client's gateway."""
        grant = self._grants.get(client)
        key = None if grant is None or grant.gateway is None else grant.gateway.public_key
        return key if isinstance(key, PublicKey) else None

    def first(self, gateways: Iterable[Node]) -> Decision | None:
        """Return the grant with the earliest claim of the clients behind these gateways."""
        grants = (self._behind.get(gateway.token_id, _NO_CLIENTS).values() for gateway in gateways)
        return min((grant for each in grants for grant in each), key=claimed, default=None)

    def _put(self, client: TokenId, new: Decision | None, addresses: frozenset[Cidr]) -> None:
        old = self._grants.pop(client, None)
        if old is not None and old.gateway is not None:
            gateway = old.gateway.token_id
            del self._behind[gateway][client]
            self._addresses[gateway] -= addresses
            if not self._behind[gateway]:
                del self._behind[gateway], self._addresses[gateway]
        if new is not None and new.gateway is not None:
            gateway = new.gateway.token_id
            self._grants[client] = new
            self._behind.setdefault(gateway, {})[client] = new
            self._addresses.setdefault(gateway, set()).update(addresses)
