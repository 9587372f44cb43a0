"""Nodes and events as JSON, for the store.

Reading accepts only the output of writing. Any other content is corrupt and raises `FormatError`.
"""

import json
from types import NoneType
from typing import Any, Final, get_args

from dstack_vpn.core.chain import events as ev
from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Endpoint, Malformed, Position
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.policy.selection import GoodPolicy
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

_FORMER_NAMES: Final = {"TokenState": "Observed"}
"""Types that are stored under their original names, so that every release reads every store."""


def _name_of(kind: type) -> str:
    return _FORMER_NAMES.get(kind.__name__, kind.__name__)


_EVENTS: Final[dict[str, type[ev.RegistryEvent]]] = {
    _name_of(kind): kind
    for kind in (
        ev.Granted,
        ev.Revoked,
        ev.Transferred,
        ev.KeyUpdated,
        ev.OwnerKeyUpdated,
        ev.EndpointUpdated,
        ev.ExpiryUpdated,
        ev.TagsUpdated,
        ev.RoutesUpdated,
        ev.TokenState,
        *get_args(ev.ContractEvent),
    )
}

_CONTRACT: Final[dict[str, type]] = {
    "ContractState": ContractState,
    "Policy": Policy,
    "GoodPolicy": GoodPolicy,
}

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "token_id": (int,),
    "owner": (str,),
    "recipient": (str,),
    "node_id": (str, Malformed),
    "public_key": (PublicKey, Malformed, NoneType),
    "suspended_key": (PublicKey, NoneType),
    "key_since": (Position,),
    "endpoint": (PeerEndpoint, Malformed, NoneType),
    "uri_endpoint": (PeerEndpoint, Malformed, NoneType),
    "active": (bool,),
    "expires_at": (int,),
    "tags": (int,),
    "routes": (tuple, Malformed),
    "node": (Node, NoneType),
    "problem": (str,),
    "index": (int,),
    "name": (str,),
    "hash": (str, NoneType),
    "since": (Position,),
    "text": (str, NoneType),
    "role": (str,),
    "account": (str, NoneType),
    "held": (bool,),
    "paused": (bool,),
    "state": (ContractState,),
    "policy": (Policy, NoneType),
    "is_read": (bool,),
    "tag_names": (tuple,),
    "minters": (tuple,),
    "policy_administrators": (tuple,),
    "pending_owner": (str, NoneType),
}
"""The accepted types of each field by its name. A name has the same meaning in all types."""


def dump_node(node: Node) -> str:
    """Return a node as one line of JSON."""
    return json.dumps(_plain(node), separators=(",", ":"))


def load_node(text: str) -> Node:
    """Return the node that `dump_node` wrote. Raises `FormatError`."""
    node = _load(text)
    if not isinstance(node, Node):
        raise FormatError("the record is not a node")
    return node


def dump_contract(state: ContractState) -> str:
    """Return the contract's own state as one line of JSON."""
    return json.dumps(_plain(state), separators=(",", ":"))


def load_contract(text: str) -> ContractState:
    """Return the state that `dump_contract` wrote. Raises `FormatError`."""
    state = _load(text)
    if not isinstance(state, ContractState):
        raise FormatError("the record is not the state of a contract")
    return state


def dump_policy(policy: GoodPolicy) -> str:
    """Return a policy as one line of JSON."""
    return json.dumps(_plain(policy), separators=(",", ":"))


def load_policy(text: str) -> GoodPolicy:
    """Return the policy that `dump_policy` wrote. Raises `FormatError`."""
    policy = _load(text)
    if not isinstance(policy, GoodPolicy):
        raise FormatError("the record is not a policy")
    return policy


def dump_event(event: ev.RegistryEvent) -> str:
    """Return an event as one line of JSON."""
    return json.dumps(_plain(event), separators=(",", ":"))


def load_event(text: str) -> ev.RegistryEvent:
    """Return the event that `dump_event` wrote. Raises `FormatError`."""
    event = _load(text)
    if type(event) not in _EVENTS.values():
        raise FormatError("the record is not an event")
    result: ev.RegistryEvent = event
    return result


def _plain(value: object) -> object:
    """Return a value in JSON types. Our types carry their names."""
    match value:
        case None | bool() | int() | str():
            return value
        case PublicKey():
            return {"key": value.hex()}
        case Position(block, log_index):
            return {"at": [block, log_index]}
        case PeerEndpoint():
            return {"reach": str(value)}
        case tuple():
            return {"list": list(value)}
        case _:  # all other values are dataclasses
            fields = {name: _plain(getattr(value, name)) for name in type(value).__match_args__}  # type: ignore[attr-defined]
            return {"type": _name_of(type(value)), **fields}


def _load(text: str) -> Any:  # noqa: ANN401 - the callers check the type
    try:
        return json.loads(text, object_hook=_revive)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"the record is damaged: {error}") from error


def _reach(text: str) -> PeerEndpoint | Malformed:
    """Parse an endpoint. It may be one that only earlier releases accepted."""
    try:
        return PeerEndpoint.parse(text)
    except FormatError as error:
        return Malformed(str(error))


def _revive(members: dict[str, Any]) -> object:
    match members:
        case {"key": str(digits)}:
            return PublicKey(bytes.fromhex(digits))
        case {"at": [int(block), int(log_index)]}:
            return Position(block, log_index)
        case {"reach": str(text)}:
            return _reach(text)
        case {"list": [*items]} if all(isinstance(item, str) for item in items):
            return tuple(items)
        case {"type": "Endpoint", "host": str(host), "port": int(port)}:
            return _reach(str(Endpoint(host, port)))  # the form before relays were supported
        case {"type": str(name), **fields}:
            kinds: dict[str, type] = {"Node": Node, "Malformed": Malformed, **_CONTRACT, **_EVENTS}
            for field, value in fields.items():
                if type(value) not in _TYPES[field]:
                    raise FormatError(f"{field} has an unexpected type")
            return kinds[name](**fields)
        case _:
            raise FormatError("the record has an unknown form")
