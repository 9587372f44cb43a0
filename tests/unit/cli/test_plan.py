"""`plan` over a registry and a device of the test: each change has its reason."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.anvil import key_of
from tests.unit.cli.conftest import Cli

from dstack_vpn import config
from dstack_vpn.adapters.admin.reading import RegistrySnapshot
from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, DeviceState, Malformed, Peer, PeerState, SocketAddress
from dstack_vpn.core.ownership import RouteFact
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.config_file import ConfPeer, WgConfig, render
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError
from dstack_vpn.ports import HostRoutes
from dstack_vpn.wiring import node as wiring
from dstack_vpn.wiring import policy as policies
from dstack_vpn.wiring import routes_plan
from dstack_vpn.wiring.addresses import address_plan
from dstack_vpn.wiring.policy import RegistryPolicy

OWN = PrivateKey(bytes(range(1, 33)))
OWN_TEXT = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
OWNER = "0x" + "a" * 40
AT = BlockRef(12, "0x" + "1" * 64, "0x" + "0" * 64, 1)


def node(token: int, **changed: Any) -> Node:
    return replace(Node(token, OWNER, f"node-{token}", key_of(token)), **changed)


NODES = (
    node(1, public_key=derive(OWN)),
    node(2),
    node(3, active=False),
    node(4, endpoint=PeerEndpoint.parse("192.0.2.4:51820")),
    node(5, public_key=Malformed("key: not plain ASCII")),
    node(6, node_id=Malformed("node id: not plain ASCII")),
    node(7, expires_at=5),
)


def peer(token: int, *allowed: str, endpoint: SocketAddress | None = None) -> PeerState:
    return PeerState(key_of(token), frozenset(allowed), endpoint)


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Path:
    """Set STATE_DIR, after ``cli`` has cleared the environment."""
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    return tmp_path


def world(
    monkeypatch: pytest.MonkeyPatch,
    device: DeviceState | Exception | None,
    policy: str | None = None,
    *,
    supported: bool = True,
) -> None:
    async def read_all(_: object) -> tuple[RegistrySnapshot, RegistryPolicy]:
        found = None if policy is None else Policy("0x" + "ab" * 32, text=policy)
        contract = ContractState(is_read=supported, tag_names=("web",), policy=found)
        registry = Registry.of(NODES, contract)
        snapshot = RegistrySnapshot(registry, AT, "http://scripted.example", complete=True)
        return snapshot, RegistryPolicy(found, AT, "access-registry", supported)

    async def look(_: object) -> DeviceState | None:
        if isinstance(device, Exception):
            raise device
        return device

    monkeypatch.setattr(policies, "read_all", read_all)
    monkeypatch.setattr(wiring, "look_at_device", look)


def running(*peers: PeerState) -> DeviceState:
    return DeviceState(derive(OWN), 51820, peers={state.public_key: state for state in peers})


def plan(cli: Cli, **environment: str) -> Any:
    ran = cli("plan", "--json", **environment)
    assert ran.code == 0, ran
    return json.loads(ran.out)


def test_each_change_has_its_reason(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ipv6 = _addresses().allowed_ips(2)
    world(
        monkeypatch,
        running(peer(2, *ipv6), peer(3, "10.77.0.4/32"), peer(4, "10.77.0.5/32"), peer(9, "10.77.0.10/32")),
    )
    found = plan(cli)
    shown = {(c["action"], c["node_id"], c["token"], c["reason"]) for c in found["changes"]}
    assert shown == {
        ("remove", "node-3", 3, "revoked"),
        ("remove", None, None, "not in the registry"),
        ("update", "node-4", 4, "changed"),
    }
    update = found["changes"][-1]
    assert update["public_key"] == str(key_of(4))
    assert update["details"][1] == "endpoint 192.0.2.4:51820"
    assert (found["peers_now"], found["peers_then"]) == (4, 2)
    assert {(n["token"], n["reason"]) for n in found["no_peers"]} == {
        (1, "own key"),
        (3, "revoked"),
        (5, "malformed key (key: not plain ASCII)"),
        (6, "malformed node id (node id: not plain ASCII)"),
        (7, "expired"),
    }
    assert found["notes"] == []


def test_a_route_of_this_node_that_cannot_be_used_has_its_reason(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = ("10.77.0.0/24", "192.168.7.0/24")
    monkeypatch.setitem(globals(), "NODES", (node(1, public_key=derive(OWN), routes=routes),))
    world(monkeypatch, running())
    (note,) = plan(cli)["notes"]
    assert note == (
        "this node does not forward to its route 10.77.0.0/24: it overlaps the VPN's own prefix 10.77.0.0/16"
    )


def test_a_member_that_may_use_only_a_network_behind_this_node_is_a_peer(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = node(1, public_key=derive(OWN), routes=("192.168.7.0/24",))
    monkeypatch.setitem(globals(), "NODES", (gateway, node(2), node(3)))
    grant = {"src": ["node:node-2"], "dst": ["192.168.7.8/32"], "ip": ["tcp:443"]}
    world(monkeypatch, running(), json.dumps({"grants": [grant]}))
    found = plan(cli)
    assert [each["node_id"] for each in found["changes"]] == ["node-2"]
    assert {each["node_id"] for each in found["no_peers"]} == {"node-1", "node-3"}


def test_a_relay_that_the_daemon_has_chosen_is_no_difference(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer_endpoint = PeerEndpoint.parse("192.0.2.2:51820,tls://192.0.2.2:443")
    member, allowed = node(2, endpoint=peer_endpoint), _addresses().allowed_ips(2)
    monkeypatch.setitem(globals(), "NODES", (NODES[0], member))
    for endpoint, changes in (("127.0.0.1", 0), ("192.0.2.9", 1)):
        world(monkeypatch, running(peer(2, *allowed, endpoint=SocketAddress(endpoint, 40_000))))
        assert len(plan(cli)["changes"]) == changes


def _addresses() -> AddressPlan:
    return address_plan(config.load({}, {"NETWORK": "local"}))


def test_without_a_device_everybody_is_added(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, None)
    found = plan(cli)
    assert [(c["action"], c["token"]) for c in found["changes"]] == [("add", 1), ("add", 2), ("add", 4)]
    assert len(found["notes"]) == 2
    with_key = plan(cli, WIREGUARD_PRIVATE_KEY=OWN_TEXT)
    assert [c["token"] for c in with_key["changes"]] == [2, 4]
    assert len(with_key["notes"]) == 1


def test_the_brake_and_another_key_are_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, running(*(peer(token) for token in range(20, 30))))
    found = plan(cli, WIREGUARD_PRIVATE_KEY="A" * 42 + "E=")
    assert [note[:30] for note in found["notes"]] == [
        "the interface has another key ",
        "10 of 10 peers would be remove",
    ]


def test_a_pinned_backup_keeps_others_out(cli: Cli, monkeypatch: pytest.MonkeyPatch, state_dir: Path) -> None:
    world(monkeypatch, running())
    conf = state_dir / "wg0.conf"
    backups = state_dir / "backups"
    backups.mkdir()
    text = render(
        WgConfig(OWN, 51820, peers=(ConfPeer(Peer(key_of(2), frozenset({"10.77.0.3/32"}))),)), OWN_TEXT
    )
    (backups / "20261123T121500.123Z.conf").write_text(text)
    assert cli("config", "rollback", "20261123T121500.123Z", WIREGUARD_CONFIG=str(conf)).code == 0
    found = plan(cli, WIREGUARD_CONFIG=str(conf))
    assert [c["token"] for c in found["changes"]] == [2]
    assert {"token": 4, "node_id": "node-4", "reason": "not in the pinned configuration"} in found["no_peers"]
    assert "a backup is pinned" in found["notes"][0]


def test_for_people_it_says_the_same(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, running(peer(3)))
    ran = cli("plan")
    assert ran.code == 0
    assert "wg0: 1 peer now, 2 by the registry at block 12; 3 changes" in ran.out
    assert "remove  node-3  3" in ran.out and "malformed key" in ran.out


def test_a_device_that_cant_be_read_is_no_empty_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, DeviceError("no permission to read wg0: run as root"))
    ran = cli("plan", "--json")
    assert (ran.code, ran.out, ran.err) == (1, "", "error: no permission to read wg0: run as root\n")


NO_GRANT = "no grant of the policy connects this node with it"
TO_4 = '{"grants": [{"src": ["node:node-1"], "dst": ["node:node-4"], "ip": ["tcp:22"]}]}'


def test_a_policy_leaves_peers_out(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, running(peer(2, *_addresses().allowed_ips(2))), TO_4)
    found = plan(cli, WIREGUARD_PRIVATE_KEY=OWN_TEXT)
    assert [(c["action"], c["token"], c["reason"]) for c in found["changes"]] == [
        ("remove", 2, NO_GRANT),
        ("add", 4, "active"),
    ]
    assert {"token": 2, "node_id": "node-2", "reason": NO_GRANT} in found["no_peers"]
    assert {"token": 3, "node_id": "node-3", "reason": "revoked"} in found["no_peers"]
    assert (found["peers_then"], found["notes"]) == (1, [])
    assert NO_GRANT in cli("plan", WIREGUARD_PRIVATE_KEY=OWN_TEXT).out


def test_a_policy_file_restricts_as_well(cli: Cli, monkeypatch: pytest.MonkeyPatch, state_dir: Path) -> None:
    file = state_dir / "policy.json"
    file.write_text('{"grants": [{"src": ["*"], "dst": ["node:node-1"], "ip": ["*"]}]}')
    where = {"WIREGUARD_PRIVATE_KEY": OWN_TEXT, "POLICY_FILE": str(file)}
    world(monkeypatch, running(), TO_4)
    assert plan(cli, **where)["changes"] == []  # the file does not permit what the registry permits
    world(monkeypatch, running(), supported=False)
    assert [c["token"] for c in plan(cli, **where)["changes"]] == [2, 4]
    file.write_text("{")
    ran = cli("plan", **where)
    assert (ran.code, "POLICY_FILE: " in ran.err) == (78, True)


def test_a_policy_that_can_not_be_used_is_noted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, running(), "\x1b{")
    found = plan(cli, WIREGUARD_PRIVATE_KEY=OWN_TEXT)
    assert (found["peers_then"], found["changes"]) == (0, [])
    (note,) = found["notes"]
    assert note.startswith("policy 0xabababab… can't be used: line 1, column 1: not JSON")
    assert note.endswith(
        "A daemon keeps its last good policy, which is not known here; without one it has no peers"
    )
    failing = TO_4[:-1] + ', "tests": [{"src": "node:node-9", "deny": ["node:node-4:tcp:1"]}]}'
    world(monkeypatch, running(), failing)
    found = plan(cli, WIREGUARD_PRIVATE_KEY=OWN_TEXT)
    assert [c["token"] for c in found["changes"]] == [4]
    assert "test 1 of policy 0xabababab… fails: node:node-9 names no member" in found["notes"][0]


def test_a_policy_connects_a_stranger_with_none(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, running(), TO_4)
    found = plan(cli, WIREGUARD_PRIVATE_KEY="A" * 42 + "E=")
    assert found["changes"] == []
    assert "this node is not a member" in found["notes"][-1]


def test_networks_behind_nodes_are_shown_with_their_gateways(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = HostRoutes(7, (RouteFact("10.20.0.0/16", index=2, device="eth0"),), ())

    async def host_routes(name: str, prefixes: object) -> HostRoutes:
        assert prefixes == {"10.9.0.0/24", "10.20.5.0/24"}
        return found

    monkeypatch.setattr(routes_plan, "host_routes", host_routes)
    monkeypatch.setattr(routes_plan, "needed_machines", lambda _: [])
    routed = replace(NODES[1], routes=("10.9.0.0/24", "10.20.5.0/24"))
    both = (NODES[0], routed, replace(NODES[3], routes=("0.0.0.0/0",)))
    monkeypatch.setitem(globals(), "NODES", both)
    allowed = _addresses().allowed_ips(2)
    world(monkeypatch, running(peer(2, *allowed, "10.9.0.0/24"), peer(4, *_addresses().allowed_ips(4))))
    environment = {"WIREGUARD_PRIVATE_KEY": OWN_TEXT, "ACCEPT_ROUTES": "all"}
    shown = plan(cli, **environment)
    assert [(n["network"], n["node_id"], n["problem"]) for n in shown["networks"]] == [
        ("10.20.5.0/24", None, "this host has the route 10.20.0.0/16 dev eth0"),
        ("10.9.0.0/24", "node-2", None),
    ]
    assert 2 not in [c["token"] for c in shown["changes"]]
    assert "Networks behind other nodes" in cli("plan", **environment).out
    assert 2 in [c["token"] for c in plan(cli, WIREGUARD_PRIVATE_KEY=OWN_TEXT)["changes"]]
