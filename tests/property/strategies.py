"""Strategies for registry events, positions and states, of few tokens and keys that collide."""

from hypothesis import strategies as st
from tests.scripted import key

from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    ExpiryUpdated,
    Granted,
    KeyUpdated,
    LoggedEvent,
    OwnerKeyUpdated,
    Revoked,
    RoutesUpdated,
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
    st.none(), st.just(PeerEndpoint.parse("192.0.2.1:51820")), st.just(Malformed("a bad endpoint"))
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
)
logs = st.lists(st.lists(events.filter(lambda e: not isinstance(e, TokenState)), max_size=4), max_size=6).map(
    lambda blocks: [
        LoggedEvent(number, f"h{number}", index, event)
        for number, block in enumerate(blocks, 1)
        for index, event in enumerate(block)
    ]
)
