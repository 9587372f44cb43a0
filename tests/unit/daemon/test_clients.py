"""Plain clients: members that other nodes reach by a gateway's peer."""

from collections.abc import Collection, Sequence
from functools import partial

import pytest
from tests.policy_rules import group_of
from tests.scripted import grant, key
from tests.unit.daemon.conftest import OWN, Bench, eventually
from tests.unit.daemon.under_policy import policy

from dstack_vpn.core.access.control import Reason
from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    ExpiryUpdated,
    Granted,
    RegistryEvent,
    Revoked,
    TagDefined,
    TagsUpdated,
    Transferred,
)
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.policy.compiler import Subject
from dstack_vpn.core.policy.rules import PolicyRules
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.daemon.device import firewall
from dstack_vpn.daemon.peers.policies import Policies

US = Granted(0, "0xme", "node-0", derive(OWN))
GATEWAY = 1


def via(token: int, node_id: str) -> EndpointUpdated:
    return EndpointUpdated(token, PeerEndpoint.parse(f"via:{node_id}"))


@pytest.fixture
def net(bench: Bench) -> Bench:
    """Nodes 1 and 2 are gateways, 3 is a client of node 1, and 0 is ours."""
    bench.source.has_contract = True
    bench.chain.mine(US, grant(1), grant(2), grant(3), TagDefined(0, "gateway"))
    bench.chain.mine(TagsUpdated(1, GATEWAY), TagsUpdated(2, GATEWAY), via(3, "node-1"))
    return bench


def peers(bench: Bench) -> dict[int, set[int]]:
    """Return the tokens behind each peer of the device, by the number of its key."""
    plan, numbers = bench.node.members.addresses, {key(number): number for number in range(9)}
    return {
        numbers[public_key]: {
            token for cidr in peer.allowed_ips if (token := plan.token_at(cidr.partition("/")[0])) is not None
        }
        for public_key, peer in bench.device.peers.items()
    }


def is_decided(node: Daemon, expected: str) -> bool:
    """Return whether the decision about token 3 is the expected one."""
    return str(node.members.access.decide(3, 0)) == expected


async def test_a_client_is_behind_the_peer_of_its_gateway(net: Bench) -> None:
    async with net.running() as node:
        await eventually(lambda: net.link.device is not None and peers(net) == {1: {1, 3}, 2: {2}})
        assert len(net.device.peers[key(1)].allowed_ips) == 4  # IPv4 and IPv6 of both
        decision = node.members.access.decide(3, 0)
        assert str(decision) == "active (a client of node-1)"


CHANGES: Sequence[tuple[str, RegistryEvent, dict[int, set[int]]]] = [
    ("the client is revoked", Revoked(3), {1: {1}, 2: {2}}),
    ("the client is transferred", Transferred(3, "0xother"), {1: {1}, 2: {2}}),
    ("the client has expired", ExpiryUpdated(3, 1), {1: {1}, 2: {2}}),
    ("the client has another gateway", via(3, "node-2"), {1: {1}, 2: {2, 3}}),
    ("the client becomes a node", EndpointUpdated(3, None), {1: {1}, 2: {2}, 3: {3}}),
    ("the gateway is revoked", Revoked(1), {2: {2}}),
    ("the gateway is transferred", Transferred(1, "0xother"), {2: {2}}),
    ("the gateway has expired", ExpiryUpdated(1, 1), {2: {2}}),
    ("the gateway loses its tag", TagsUpdated(1, 0), {1: {1}, 2: {2}}),
    ("the gateway becomes a client", via(1, "node-2"), {2: {1, 2}}),
    ("the client names itself", via(3, "node-3"), {1: {1}, 2: {2}}),
    ("the client names no node", via(3, "nobody"), {1: {1}, 2: {2}}),
]


@pytest.mark.parametrize("change", CHANGES, ids=[name for name, *_ in CHANGES])
async def test_a_change_takes_effect_with_its_event_and_is_undone(
    net: Bench, change: tuple[str, RegistryEvent, dict[int, set[int]]]
) -> None:
    _, event, then = change
    async with net.running() as node:
        await eventually(lambda: net.link.device is not None and peers(net) == {1: {1, 3}, 2: {2}})
        net.source.tell(net.chain.mine(event))
        await eventually(lambda: peers(net) == then)
        assert await node.reconciler.repair()
        assert peers(net) == then


async def test_a_revocation_leaves_the_rules_of_the_gateways_other_clients(
    net: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    anyone = {"src": ["*"], "dst": ["*"], "ip": ["icmp:*"]}
    net.chain.mine(grant(4), via(4, "node-1"), policy(net, 1, anyone))
    put: list[tuple[str, ...]] = []
    original = Policies.put

    def recorded(
        self: Policies, addresses: Collection[str], subject: Subject, seen: float, *, forwarded: bool
    ) -> None:
        put.append(tuple(addresses))
        original(self, addresses, subject, seen, forwarded=forwarded)

    monkeypatch.setattr(Policies, "put", recorded)
    async with net.running() as node:
        await eventually(lambda: net.link.device is not None and peers(net) == {1: {1, 3, 4}, 2: {2}})
        texts = node.members.addresses.texts_of
        assert {texts(1), texts(3), texts(4)} <= set(put)
        put.clear()
        net.source.tell(net.chain.mine(Revoked(4)))
        await eventually(lambda: peers(net) == {1: {1, 3}, 2: {2}})
        assert texts(3) not in put
        net.source.tell(net.chain.mine(Granted(4, "0xowner4", "node-4", key(4)), via(4, "node-1")))
        await eventually(lambda: peers(net) == {1: {1, 3, 4}, 2: {2}})
        assert texts(4) in put
        assert texts(3) not in put


async def test_a_client_without_a_valid_gateway_has_a_reason(net: Bench) -> None:
    async with net.running() as node:
        await eventually(lambda: net.link.device is not None and peers(net) == {1: {1, 3}, 2: {2}})
        for event, reason in (
            (TagsUpdated(1, 0), "node-1: it does not have the tag 'gateway'"),
            (via(3, "nobody"), "there is no node nobody"),
            (via(3, "node-3"), "it names itself"),
            (Revoked(1), None),
            (via(3, "node-1"), "node-1: revoked"),
        ):
            net.source.tell(net.chain.mine(event))
            if reason is None:
                continue
            expected = f"its gateway can't be used ({reason})"
            await eventually(partial(is_decided, node, expected))
            assert node.members.decisions.answer(3) is Reason.NO_GATEWAY
        assert 3 not in set().union(*peers(net).values())


async def test_the_gateway_itself_has_its_clients_as_peers(net: Bench) -> None:
    net.chain.mine(TagsUpdated(0, GATEWAY), via(3, "node-0"))
    async with net.running():
        await eventually(lambda: net.link.device is not None and peers(net) == {1: {1}, 2: {2}, 3: {3}})
        assert net.device.peers[key(3)].endpoint is None
        net.source.tell(net.chain.mine(TagsUpdated(0, 0)))
        await eventually(lambda: peers(net) == {1: {1}, 2: {2}})
        refused = "node-3: node-0: it does not have the tag 'gateway'"
        await eventually(lambda: refused in net.component("clients"))
        assert net.component("clients").startswith("warning")
        net.source.tell(net.chain.mine(TagsUpdated(0, GATEWAY)))
        await eventually(lambda: peers(net) == {1: {1}, 2: {2}, 3: {3}})
        assert "clients" not in {each.name for each in net.health().components}


async def test_a_daemon_whose_token_is_a_client_reports_it(net: Bench) -> None:
    async with net.running():
        await eventually(lambda: net.component("membership") == "ok: ")
        net.source.tell(net.chain.mine(via(0, "node-1")))
        await eventually(lambda: "registered as a plain client" in net.component("membership"))


async def test_clients_stay_over_a_restart_without_the_chain(net: Bench) -> None:
    async with net.running() as node:
        await eventually(lambda: net.link.device is not None and peers(net) == {1: {1, 3}, 2: {2}})
        await eventually(lambda: net.store.saved is not None)
        await eventually(lambda: node.members.synced)
    net.source.up = False
    async with net.running() as node:
        await eventually(lambda: net.link.device is not None and peers(net) == {1: {1, 3}, 2: {2}})
        assert node.members.stale


# -- under a policy --------------------------------------------------------------------------------

FROM_3 = {"src": ["node:node-3"], "dst": ["node:node-2"], "ip": ["tcp:22"]}


def rules(bench: Bench) -> PolicyRules:
    assert bench.firewall.rules is not None
    assert bench.firewall.rules.policy is not None
    return bench.firewall.rules.policy


async def test_a_gateway_has_the_peers_that_its_clients_may_talk_to(net: Bench) -> None:
    net.chain.mine(TagsUpdated(0, GATEWAY), via(3, "node-0"), policy(net, 1, FROM_3))
    async with net.running() as node:
        await eventually(lambda: net.link.device is not None and peers(net) == {2: {2}, 3: {3}})
        assert node.members.decisions.answer(1) is Reason.NO_GRANT
        (view,) = rules(net).views.values()
        plan = node.members.addresses
        assert view.addresses == set(plan.texts_of(3))
        assert net.firewall.rules is not None
        assert net.firewall.rules.forwarded == view.addresses
        (outbound,) = view.rights_of("10.77.0.3").outbound
        assert outbound.first == 22
        assert not rules(net).members, "the policy gives the gateway itself no rights"
        # Another node of the policy, and the end of the client.
        other = {"src": ["node:node-1"], "dst": ["node:node-3"], "ip": ["tcp:80"]}
        net.source.tell(net.chain.mine(policy(net, 2, other)))
        await eventually(lambda: peers(net) == {1: {1}, 3: {3}})
        net.source.tell(net.chain.mine(Revoked(3)))
        await eventually(lambda: peers(net) == {})
        await eventually(lambda: not rules(net).views)
        assert not net.firewall.rules.forwarded


async def test_the_peer_of_a_gateway_without_rights_leads_to_its_client_only(net: Bench) -> None:
    from_us = {"src": ["node:node-3"], "dst": ["node:node-0"], "ip": ["*"]}
    net.chain.mine(policy(net, 1, from_us))
    async with net.running() as node:
        await eventually(lambda: net.link.device is not None and peers(net) == {1: {3}})
        assert node.members.decisions.answer(1) is Reason.NO_GRANT
        assert group_of(rules(net)).keys() == set(node.members.addresses.texts_of(3))
        net.source.tell(net.chain.mine(TagsUpdated(1, 0)))
        await eventually(lambda: peers(net) == {})
        await eventually(lambda: not rules(net).members)


async def test_a_tag_of_a_client_moves_it_to_another_view(net: Bench) -> None:
    tagged = {"src": ["tag:ops"], "dst": ["node:node-2"], "ip": ["*"]}
    net.chain.mine(TagsUpdated(0, GATEWAY), via(3, "node-0"), TagDefined(1, "ops"), policy(net, 1, tagged))
    async with net.running():
        await eventually(lambda: net.link.device is not None and peers(net) == {3: {3}})
        net.source.tell(net.chain.mine(TagsUpdated(3, 2)))
        await eventually(lambda: peers(net) == {2: {2}, 3: {3}})
        (view,) = rules(net).views.values()
        assert view.rights_of("10.77.0.3")
        net.source.tell(net.chain.mine(TagsUpdated(3, 0)))
        await eventually(lambda: peers(net) == {3: {3}})


async def test_without_a_policy_the_filter_knows_whom_to_forward_for(
    net: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall, "FORWARDING", 0.02)
    net.protect = True
    net.chain.mine(TagsUpdated(0, GATEWAY), via(3, "node-0"))
    async with net.running() as node:
        both = set(node.members.addresses.texts_of(3))
        await eventually(lambda: net.firewall.rules is not None and net.firewall.rules.forwarded == both)
        net.firewall.off = "IP forwarding is off: set net.ipv4.ip_forward=1"
        await eventually(lambda: node.firewall_controller.forwarding_problem)
        assert net.component("gateway") == "failed: IP forwarding is off: set net.ipv4.ip_forward=1"
        net.source.tell(net.chain.mine(Revoked(3)))
        await eventually(lambda: net.firewall.rules is not None and not net.firewall.rules.forwarded)
