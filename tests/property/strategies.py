"""Strategies for registry events, positions and states, of few tokens and keys that collide."""

from hypothesis import strategies as st
from tests.scripted import key

from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.events import (
    ContractRead,
    EndpointUpdated,
    ExpiryUpdated,
    Granted,
    InvitationCancelled,
    InvitationRedeemed,
    KeyUpdated,
    LoggedEvent,
    OwnerKeyUpdated,
    OwnerOffered,
    OwnerUpdated,
    PauseUpdated,
    PolicyRead,
    PolicyUpdated,
    Reading,
    Revoked,
    RoleUpdated,
    RoutesUpdated,
    TagDefined,
    TagsUpdated,
    TokenState,
    Transferred,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Malformed, Position
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

tokens = st.integers(0, 5)
owners = st.sampled_from(["0xa", "0xb", "0xc"])
keys = st.one_of(st.integers(0, 4).map(key), st.none(), st.just(Malformed("a bad key")))
node_ids = st.one_of(st.sampled_from(["web", "db", "cache"]), st.just(Malformed("a bad node id")))
endpoints = st.one_of(
    st.none(),
    st.just(PeerEndpoint.parse("192.0.2.1:51820")),
    st.just(PeerEndpoint.parse("via:web")),
    st.just(Malformed("a bad endpoint")),
)
expiries = st.integers(0, 20)
tags = st.integers(0, 7)
routes = st.sampled_from([(), ("10.0.0.0/8",), ("10.0.0.0/8", "fd00::/8"), Malformed("a bad route")])
positions = st.builds(Position, st.integers(0, 50), st.integers(0, 9))
nodes = st.builds(
    Node,
    tokens,
    owners,
    node_ids,
    keys,
    endpoint=endpoints,
    active=st.booleans(),
    expires_at=expiries,
    tags=tags,
    routes=routes,
    key_since=positions,
)
observations = st.one_of(
    nodes.map(lambda node: TokenState(node.token_id, node)), tokens.map(lambda token: TokenState(token, None))
)
hashes = st.sampled_from(["0x" + digit * 64 for digit in "ab"])
accounts = st.sampled_from(["0x" + digit * 40 for digit in "123"])
policies = st.one_of(st.none(), st.builds(Policy, hashes, positions))
texts = st.one_of(
    st.none(), st.builds(Policy, hashes, positions, st.sampled_from(["allow all", "\N{ESCAPE}\0"]))
)
tag_names = st.lists(st.sampled_from(["web", "db", "5"]), unique=True).map(tuple)
contracts = st.builds(
    ContractState,
    is_read=st.just(value=True),
    tag_names=tag_names,
    policy=policies,
    minters=st.sets(accounts).map(lambda found: tuple(sorted(found))),
    policy_administrators=st.sets(accounts).map(lambda found: tuple(sorted(found))),
    owner=accounts,
    pending_owner=st.one_of(st.none(), accounts),
    paused=st.booleans(),
)
contract_readings = st.one_of(st.builds(ContractRead, contracts), st.builds(PolicyRead, texts))
contract_events = st.one_of(
    st.builds(TagDefined, st.integers(0, 4), st.sampled_from(["web", "db", "5"])),
    st.builds(PolicyUpdated, st.one_of(st.none(), hashes)),
    st.builds(RoleUpdated, st.sampled_from(["minter", "policy administrator"]), accounts, st.booleans()),
    st.builds(OwnerOffered, st.one_of(st.none(), accounts)),
    st.builds(OwnerUpdated, accounts),
    st.builds(PauseUpdated, st.booleans()),
    st.builds(InvitationRedeemed, hashes, tokens),
    st.builds(InvitationCancelled, hashes),
)
events = st.one_of(
    st.builds(Granted, tokens, owners, node_ids, keys),
    st.builds(Revoked, tokens),
    st.builds(Transferred, tokens, owners),
    st.builds(KeyUpdated, tokens, keys),
    st.builds(OwnerKeyUpdated, owners, keys),
    st.builds(EndpointUpdated, tokens, endpoints),
    st.builds(ExpiryUpdated, tokens, expiries),
    st.builds(TagsUpdated, tokens, tags),
    st.builds(RoutesUpdated, tokens, routes),
    observations,
    contract_events,
    contract_readings,
)
logs = st.lists(st.lists(events.filter(lambda e: not isinstance(e, Reading)), max_size=4), max_size=6).map(
    lambda blocks: [
        LoggedEvent(number, f"h{number}", index, event)
        for number, block in enumerate(blocks, 1)
        for index, event in enumerate(block)
    ]
)
