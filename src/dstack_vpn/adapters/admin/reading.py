"""One read of the registry at one block, from one endpoint.

If the contract enumerates its tokens, the state is read. Otherwise the tokens are taken from its
logs, as in `daemon.chain.session`. A single node is read by its token, or found by
``getTokenIdByNodeId``.
"""

import re
from dataclasses import dataclass
from typing import Final

from dstack_vpn.adapters.chain.caller import LAG, Caller
from dstack_vpn.adapters.chain.fields import data
from dstack_vpn.adapters.chain.identity import Target, identify
from dstack_vpn.adapters.chain.memory import EndpointCapabilities
from dstack_vpn.adapters.chain.session import RpcSession, SessionSettings
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.contracts.abi import WORD, Reader
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry, apply_all, registry_of
from dstack_vpn.core.model import BlockRef, Position, TokenId, parse_node_id
from dstack_vpn.errors import AdminError, CallRevertedError, FormatError
from dstack_vpn.ports import RegistryAbi

_TOKEN: Final = re.compile(r"[0-9]{1,78}", re.ASCII)
_HIGHEST_TOKEN: Final = 2**256 - 1


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """Nodes after one block."""

    registry: Registry
    at: BlockRef
    endpoint: str
    complete: bool
    """True if these are all nodes. False if only the requested one, and its gateway."""


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node's name: its token, its id, or digits that may be either."""

    token: TokenId | None
    node_id: str | None

    @classmethod
    def parse(cls, text: str) -> "NodeName":
        """Accept a node id, a token id, or the explicit forms ``node:ID`` and ``token:ID``.

        Raises `FormatError`.
        """
        kind, colon, rest = text.partition(":")
        if colon and kind == "node":
            return cls(None, parse_node_id(rest))
        if colon and kind == "token":
            return cls(_token(rest), None)
        if _TOKEN.fullmatch(text):
            return cls(_token(text), text if len(text) <= 63 else None)
        return cls(None, parse_node_id(text))

    def find(self, registry: Registry) -> Node | None:
        """Return the node of that name, or the newest if several had it.

        Raises `AdminError` if the name is ambiguous.
        """
        named = registry.with_node_id(self.node_id) if self.node_id is not None else frozenset()
        by_id = max((registry.nodes[t] for t in named), key=lambda n: (n.active, n.token_id), default=None)
        by_token = registry.get(self.token) if self.token is not None else None
        if by_id is not None and by_token is not None and by_id is not by_token:
            raise AdminError(
                f"{self.node_id} is a token id and also another token's node id: "
                f"write token:{self.token} or node:{self.node_id}"
            )
        return by_token or by_id


def _token(text: str) -> TokenId:
    if not _TOKEN.fullmatch(text) or int(text) > _HIGHEST_TOKEN:
        raise FormatError("token id: expected a number of at most 256 bits")
    return int(text)


@dataclass(frozen=True, slots=True)
class RegistryReader:
    """Reads the contract through one endpoint."""

    caller: Caller
    session: RpcSession

    @classmethod
    async def open(cls, caller: Caller, target: Target, settings: SessionSettings) -> "RegistryReader":
        """Check chain and contract. Raises `ChainError`."""
        identity, abi = await identify(caller, target)
        return cls(caller, RpcSession(caller, identity, abi, EndpointCapabilities(), settings))

    @property
    def abi(self) -> RegistryAbi:
        """The detected contract."""
        return self.session.abi

    async def replies(self, head: BlockRef, *questions: bytes) -> list[bytes | None]:
        """Return the contract's replies to calldata at a block; None for a revert.

        Raises `ChainError`.
        """
        contract, at = self.session.identity.contract, hex(head.number)
        queries = [("eth_call", ({"to": contract, "data": "0x" + each.hex()}, at)) for each in questions]
        found = await self.caller.call_many(queries, lag=LAG)
        return [None if isinstance(each, CallRevertedError) else data(each, "call result") for each in found]

    async def everything(self) -> RegistrySnapshot:
        """Return all nodes. Raises `ChainError`."""
        head = await self.session.head()
        observed = await self.session.read_all(head)
        if observed is None:
            return self._snapshot(await self._from_logs(head), head, complete=True)
        nodes = [entry.node for entry in observed if entry.node is not None]
        contract = await self.session.read_contract(head)
        return self._snapshot(Registry.of(nodes, contract), head, complete=True)

    async def _from_logs(self, head: BlockRef) -> Registry:
        events = await self.session.events(await self.session.first_block(), head.number)
        registry = registry_of(events)
        tokens = sorted(registry.nodes)
        observed = await self.session.read_tokens(tokens, head) if tokens else []
        registry, _ = apply_all(registry, [(Position(head.number, 2**32), entry) for entry in observed])
        return registry

    async def one(self, name: NodeName) -> RegistrySnapshot:
        """Return the nodes of that name only: none, one, or two if it is ambiguous.

        The gateway of a plain client is also returned, because its access depends on it. Raises
        `ChainError`.
        """
        head = await self.session.head()
        nodes = await self._candidates(name, head)
        for via in {node.via for node in nodes}:
            nodes += [] if via is None else await self._candidates(NodeName(None, via), head)
        contract = await self.session.read_contract(head) if any(node.tags for node in nodes) else None
        return self._snapshot(Registry.of(nodes, contract), head, complete=False)

    async def _candidates(self, name: NodeName, head: BlockRef) -> list[Node]:
        tokens = [] if name.token is None else [name.token]
        by_id = None if name.node_id is None else await self._token_of(name.node_id)
        if by_id is not None and by_id not in tokens:
            tokens.append(by_id)
        nodes = [entry.node for entry in await self.session.read_tokens(tokens, head) if entry.node]
        # For an unknown id a contract may return 0, which may be an existing token.
        nodes = [n for n in nodes if n.token_id == name.token or n.node_id == name.node_id]
        return nodes or await self._past(name, head)

    async def _past(self, name: NodeName, head: BlockRef) -> list[Node]:
        """Return the newest revoked node with this id. The contract finds only active ones."""
        observed = await self.session.read_all(head) if name.node_id is not None else None
        past = [e.node for e in observed or () if e.node is not None and e.node.node_id == name.node_id]
        return past[-1:]

    async def _token_of(self, node_id: str) -> TokenId | None:
        call = {
            "to": self.session.identity.contract,
            "data": "0x" + calls.token_id_by_node_id(node_id).hex(),
        }
        try:
            reply = data(await self.caller.call("eth_call", call, "latest"), "call result")
        except CallRevertedError:
            return None
        return Reader(reply).uint(0) if len(reply) == WORD else None

    def _snapshot(self, registry: Registry, at: BlockRef, *, complete: bool) -> RegistrySnapshot:
        return RegistrySnapshot(registry, at, self.session.name, complete)
