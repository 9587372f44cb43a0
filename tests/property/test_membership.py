"""Access control and its peers: no two peers overlap, and deltas lead to the set of a rebuild."""

import ipaddress
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from tests.property.strategies import events, positions
from tests.scripted import key

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import AccessControl, Reason
from dstack_vpn.core.access.decisions import DecisionRecord
from dstack_vpn.core.access.membership import Membership, PeerPolicy, dependents, keys_of
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import EndpointUpdated, RegistryEvent, Revoked, TagsUpdated
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry, apply, apply_all, tokens_of
from dstack_vpn.core.model import Cidr, Position, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey

PLAN = AddressPlan(ipaddress.IPv4Network("10.77.0.0/29"), unique_local_prefix(1, "0x" + "0" * 40))
OWN = key(0)
TAGS = ContractState(is_read=True, tag_names=("gateway",))


class Height(NamedTuple):
    """The number of the newest block."""

    number: int


histories = st.lists(st.tuples(positions, events), max_size=12)
tokens = st.integers(0, 2**256 - 1)


@given(st.sets(st.one_of(tokens, st.integers(0, 2**80 + 2), st.integers(0, 20)), max_size=8))
def test_no_two_tokens_share_an_address(some: set[int]) -> None:
    seen: dict[str, int] = {}
    for token in some:
        for cidr in PLAN.allowed_ips(token):
            assert seen.setdefault(cidr, token) == token
            address = cidr.partition("/")[0]
            assert PLAN.token_at(address) == token
            network = PLAN.ipv6 if ":" in address else PLAN.ipv4
            ip = ipaddress.ip_address(address)
            assert ip in network
            assert ip not in {network.network_address, network[-1] if ip.version == 4 else None}


@given(histories, st.integers(0, 25), st.integers(0, 60), st.integers(0, 3))
def test_granted_peers_are_sound(
    history: list[tuple[Position, RegistryEvent]], now: int, height: int, confirmations: int
) -> None:
    state, _ = apply_all(Registry(), history)
    access = AccessControl(state, PLAN, OWN, height, confirmations)
    granted = list(access.granted(now))
    assert len({node.public_key for node in granted}) == len(granted)
    for node in granted:
        assert node.active
        assert node.public_key != OWN
        assert node.public_key is not None
        assert node.public_key != node.suspended_key
        assert not 0 < node.expires_at < now
        assert max(height - node.key_since.block, 0) >= confirmations
    for token in state.nodes:
        decision = access.decide(token, now)
        assert decision.granted == any(node.token_id == token for node in granted)
        assert (decision.reason is Reason.ACTIVE) == decision.granted


nodes_with_gateways = st.lists(
    st.builds(
        Node,
        st.integers(0, 5),
        st.sampled_from(["0xa", "0xb"]),
        st.sampled_from(["web", "db", "cache", "phone"]),
        st.integers(0, 5).map(key),
        endpoint=st.sampled_from([None, *map(PeerEndpoint.parse, ("via:web", "via:db", "via:nobody"))]),
        uri_endpoint=st.sampled_from([None, PeerEndpoint.parse("via:db")]),
        active=st.sampled_from([True, True, True, False]),
        expires_at=st.sampled_from([0, 0, 10, 20]),
        tags=st.integers(0, 1),
        key_since=positions,
    ),
    max_size=6,
)


# Events of a registry with gateways and clients, the chain's height, or the time.
steps = st.lists(
    st.one_of(
        st.tuples(positions, events),
        st.tuples(
            positions,
            st.one_of(
                st.builds(Revoked, st.integers(0, 5)),
                st.builds(TagsUpdated, st.integers(0, 5), st.integers(0, 1)),
                st.builds(
                    EndpointUpdated,
                    st.integers(0, 5),
                    st.sampled_from([None, *map(PeerEndpoint.parse, ("via:web", "via:db"))]),
                ),
            ),
        ),
        st.builds(Height, st.integers(0, 60)),
        st.integers(0, 30),
    ),
    max_size=12,
)


@given(nodes_with_gateways, steps, st.integers(0, 3))
def test_each_step_leads_to_what_a_rebuild_does(
    nodes: list[Node], steps: list[tuple[Position, RegistryEvent] | Height | int], confirmations: int
) -> None:
    """Only the tokens that a step can affect are decided again, as `Members` does it."""
    state, now, height = Registry.of({node.token_id: node for node in nodes}.values(), TAGS), 0, 99
    access = AccessControl(state, PLAN, OWN, height, confirmations)
    member = Membership(PeerPolicy(template="{node_id}.example:1"), lambda key, peer_endpoint: None)
    record = DecisionRecord()
    member.rebuild(access, now)
    record.begin(access, now)
    peers = dict(member.peers)
    for step in steps:
        before, tokens, bit = state, set[TokenId](), access.gateway_bit
        match step:
            case Height(number):
                height = number
            case int(seconds):
                now = max(now, seconds)
            case (at, event):
                state, change = apply(before, event, at)
                tokens.update(tokens_of(change))
        access = AccessControl(state, PLAN, OWN, height, confirmations)
        tokens |= record.due(access, now)
        if access.gateway_bit != bit:
            tokens.update(*state.by_via.values())
        tokens |= dependents(tokens, before, state)
        for delta in member.update(access, keys_of(tokens, before, state), tokens, now):
            assert peers.get(delta.public_key) == delta.old
            if delta.new is None:
                del peers[delta.public_key]
            else:
                peers[delta.public_key] = delta.new
        record.update(access, tokens, now)
        # Decisions about keys alone, such as after a change of a path, take nothing back.
        assert member.update(access, list(state.by_key), (), now) == []
        fresh = Membership(member.policy, member.lookup)
        fresh.rebuild(access, now)
        assert member.peers == fresh.peers == peers
        assert (member.tokens, member.others) == (fresh.tokens, fresh.others)
        assert (member.key_of, member.keys()) == (fresh.key_of, fresh.keys())


@given(nodes_with_gateways)
def test_an_address_has_one_peer_that_leads_to_its_member(nodes: list[Node]) -> None:
    registry = Registry.of({node.token_id: node for node in nodes}.values(), TAGS)
    access = AccessControl(registry, PLAN, OWN, 99)
    member = Membership(PeerPolicy(), lambda key, peer_endpoint: None)
    member.rebuild(access, 0)
    claimed: dict[Cidr, PublicKey] = {}
    for public_key, peer in member.peers.items():
        assert public_key != OWN
        for cidr in peer.allowed_ips:
            assert claimed.setdefault(cidr, public_key) == public_key
    for node in registry.nodes.values():
        decision, addresses = access.decide(node.token_id, 0), PLAN.allowed_ips(node.token_id)
        if not decision.granted:
            assert not addresses & claimed.keys()
            continue
        gateway = decision.gateway
        assert (gateway is None) == (node.via is None)
        if gateway is not None:
            # No chain of gateways, and none without the tag.
            assert (gateway.node_id, gateway.via, gateway.tags & 1) == (node.via, None, 1)
        carrier = node if gateway is None or gateway.public_key == OWN else gateway
        assert {claimed[cidr] for cidr in addresses} == {carrier.public_key}
        assert member.key_of[node.token_id] == carrier.public_key


networks = st.dictionaries(
    st.sampled_from(["10.9.0.0/24", "10.9.0.7/32", "0.0.0.0/0", "::/0", "2001:db8::/48"]),
    st.none() | st.integers(0, 5),
)


@given(nodes_with_gateways, st.lists(networks, max_size=4))
def test_a_network_leads_to_its_token_s_own_peer(
    nodes: list[Node], moves: list[dict[Cidr, TokenId | None]]
) -> None:
    registry = Registry.of({node.token_id: node for node in nodes}.values(), TAGS)
    access = AccessControl(registry, PLAN, OWN, 99)
    member = Membership(PeerPolicy(), lambda key, peer_endpoint: None)
    member.rebuild(access, 0)
    plain, wanted = dict(member.peers), dict[Cidr, TokenId | None]()
    for move in moves:
        changed = member.move_networks(move)
        assert changed == {
            token
            for prefix, to in move.items()
            if to != wanted.get(prefix)
            for token in (to, wanted.get(prefix))
            if token is not None
        }
        wanted |= move
        member.update(access, keys_of(changed, registry), (), 0)
        found = dict[Cidr, PublicKey]()
        for public_key, peer in member.peers.items():
            assert peer.allowed_ips >= plain[public_key].allowed_ips
            more = peer.allowed_ips - plain[public_key].allowed_ips
            assert not more & found.keys(), "a network has two peers"
            found |= dict.fromkeys(more, public_key)
        own = {token: key for key, token in member.pairs() if registry.nodes[token].via is None}
        assert found == {
            prefix: own[token] for prefix, token in wanted.items() if token is not None and token in own
        }
    fresh = Membership(member.policy, member.lookup)
    fresh.move_networks(wanted)
    fresh.rebuild(access, 0)
    assert fresh.peers == member.peers


def test_an_unknown_subject_is_unknown() -> None:
    access = AccessControl(Registry(), PLAN, OWN)
    for subject in (1, "nobody", "10.77.0.1", "not an address", key(3)):
        decision = access.decide(subject, 0)
        assert (decision.granted, decision.reason) == (False, Reason.UNKNOWN)


def test_a_node_that_calls_itself_like_an_address_does_not_speak_for_it() -> None:
    honest = Node(1, "0xa", "web", key(1), active=False)
    impostor = Node(2, "0xb", "10.77.0.2", key(2))
    access = AccessControl(Registry.of([honest, impostor]), PLAN, OWN)
    assert PLAN.token_at("10.77.0.2") == 1
    decision = access.decide("10.77.0.2", 0.0)
    assert (decision.node, decision.reason) == (honest, Reason.REVOKED)
    assert access.decide(2, 0.0).granted
