"""Seeds of local data: settings, files, attestations."""

import json
from collections.abc import Iterable
from typing import Final

from tests.fuzz.cursor import blob
from tests.fuzz.seeds.texts import OTHER, OWNER, PIN, REACH
from tests.fuzz.zone import PLAN
from tests.quotes import Made, rooted
from tests.scripted import key

from dstack_vpn.adapters.store.records import dump_contract, dump_event, dump_node
from dstack_vpn.core.attest.quote import report_data
from dstack_vpn.core.chain import events as ev
from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Malformed, Peer, Position, SocketAddress
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard import config_file as wgconf
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey

# -- settings --------------------------------------------------------------------------------------

NODE: Final = {
    "NODE_ID": "web-1",
    "NETWORK": "local",
    "RPC_URL": "ws://127.0.0.1:8545/key,https://rpc.example.org",
    "RPC_QUORUM": "2",
    "CONTRACT_ADDRESS": "0x37d2106bADB01dd5bE1926e45D172Cb4203C4186",
    "WIREGUARD_PRIVATE_KEY": "dstack",
    "SYNC_INTERVAL": "5000",
    "MAX_STALENESS": "90000",
    "STALE_POLICY": "isolate",
    "GRANT_CONFIRMATIONS": "3",
    "VPN_CIDR": "10.77.0.0/16",
    "FORWARD_TO": "80=web:8000,udp:53=192.168.1.1",
    "TRANSPORT": "auto",
    "RELAY_LISTEN": "tls://0.0.0.0:443?cert=/c.pem&key=/k.pem",
    "PEER_ENDPOINTS": f"db=192.0.2.10:51820,web-2={REACH}",
    "PEER_ENDPOINT_TEMPLATE": "{node_id}.vpn.example:51820",
    "DNS_SUFFIX": "vpn.internal",
    "DNS_LISTEN": "172.30.0.2,[fd00::2]:5353",
    "DNS_UPSTREAM": "192.0.2.1:53",
    "API_TOKEN": "0123456789abcdef",
    "API_OPEN_TO": "loopback,vpn",
    "API_TRUSTED_PROXIES": "127.0.0.1/32,172.18.0.0/16",
    "LOG_LEVEL": "debug",
    "LOG_LEVEL_DNS": "error",
}
RELAY: Final = {
    "RELAY_MODE": "udp2tcp",
    "RELAY_LISTEN": "127.0.0.1:51821",
    "RELAY_TO": f"tls://vpn.example.org:443?pin={PIN}&via=socks5://u:p@10.0.0.1:1080,tcp://[::1]:80",
    "RELAY_IDLE_TIMEOUT": "540",
    "RELAY_MAX_CONNECTIONS": "10",
    "FWMARK": "51820",
    "LOG_FORMAT": "json",
}
OTHER_WAY: Final = {
    "RELAY_MODE": "tcp2udp",
    "RELAY_LISTEN": "tls://[::]:443?cert=dstack",
    "RELAY_TO": "localhost:51820",
}


def _lines(values: dict[str, str], *without: str) -> str:
    return "\n".join(f"{name}={value}" for name, value in values.items() if name not in without)


def for_settings() -> Iterable[str]:
    yield _lines(NODE)
    yield _lines({"NETWORK": "local", "WIREGUARD_PRIVATE_KEY_FILE": "/nonexistent/key", "INTERFACE": "wg7"})
    yield (
        "SECRET=" + "A" * 42 + "E=\n" + _lines({"NETWORK": "local", "WIREGUARD_PRIVATE_KEY_FILE": "@SECRET"})
    )
    yield _lines(
        NODE | {"WIREGUARD_PRIVATE_KEY": "generate", "STATE_DIR": "/nonexistent"}, "RPC_URL", "RPC_QUORUM"
    )
    yield _lines(
        NODE | {"TRANSPORT": "tls", "MTU": "1280", "KEEP_INTERFACE": "yes", "DNS_PORT": "0"}, "API_TOKEN"
    )


def for_relay_settings() -> Iterable[str]:
    yield from (_lines(RELAY), _lines(OTHER_WAY), "RELAY_MODE=tcp2udp\nPROXY_PORT=443\nRELAY_TO=wg:51820")


def for_toml() -> Iterable[str]:
    few = ("NODE_ID", "NETWORK", "RPC_URL", "SYNC_INTERVAL", "DNS_LISTEN", "API_OPEN_TO")
    yield "".join(f"{name.lower()} = {json.dumps(NODE[name])}\n" for name in few)
    yield "".join(f"{name.lower()} = '{value}'\n" for name, value in NODE.items() if "LEVEL_" not in name)
    yield 'network = "local"\nmtu = 1420\nkeep_interface = true\nrpc_url = ["ws://a.example", "ws://b.example"]\n'
    yield (
        "network = 'local'\napi_token = '0123456789abcdef'\n[peer_endpoints]\n"
        "db = '192.0.2.1:1'\n\"a.b\" = 'x.example:2'\n"
    )
    yield '# a comment\nsync_interval = 30_000\nfwmark = 7\nnode_id = 2026-11-24\nlog_level = "info"\n'
    yield 'wireguard_private_key_file = "/nonexistent\\u0021/key"\nmtu = ' + "[" * 20 + "1" + "]" * 20


def for_wgconf() -> Iterable[str]:
    peers = [
        wgconf.ConfPeer(Peer(key(1), PLAN.allowed_ips(1), SocketAddress("192.0.2.1", 51820), 25), "web-1", 1),
        wgconf.ConfPeer(
            Peer(key(2), PLAN.allowed_ips(2), SocketAddress("2001:db8::1", 51820)), "a.b", 2**255
        ),
        wgconf.ConfPeer(Peer(key(3), frozenset({"0.0.0.0/0", "::/0"}))),
    ]
    addresses = frozenset({"10.77.0.2/16", "fd00::2/64"})
    yield wgconf.render(wgconf.WgConfig(PrivateKey(b"\1" * 32), 51820, addresses, 1420, tuple(peers)))
    yield wgconf.render(wgconf.WgConfig(None, 0, frozenset({"10.77.0.2/32"}), None, tuple(peers[1:])))
    peer = f"[PEER]\npublickey={key(4)}\nPersistentKeepalive = off\n"
    yield f"[interface]\naddress=10.0.0.1/8 # x\nMTU = 1280\n{peer}"


# -- files, attestation ----------------------------------------------------------------------------


def for_record() -> Iterable[str]:
    nodes = [
        Node(
            5,
            OWNER,
            "web",
            key(5),
            PeerEndpoint.parse(REACH),
            PeerEndpoint.parse("192.0.2.1:1"),
            expires_at=9,
            key_since=Position(4, 2),
        ),
        Node(
            2**256 - 1, OWNER, Malformed("node id: not plain ASCII"), None, active=False, suspended_key=key(1)
        ),
    ]
    yield from ("n" + dump_node(node) for node in nodes)
    events: list[ev.RegistryEvent] = [
        ev.Granted(5, OWNER, "web", key(5)),
        ev.Revoked(5),
        ev.Transferred(5, OTHER),
        ev.KeyUpdated(5, Malformed("key: 3 bytes, of at most 44")),
        ev.OwnerKeyUpdated(OWNER, key(6)),
        ev.EndpointUpdated(5, PeerEndpoint.parse(REACH)),
        ev.ExpiryUpdated(5, 99),
        ev.TokenState(5, nodes[0]),
    ]
    policy = Policy("0x" + "5e" * 32, Position(4, 2), "allow all")
    state = ContractState(
        is_read=True,
        tag_names=("web",),
        policy=policy,
        minters=(OWNER,),
        owner=OWNER,
        pending_owner=OTHER,
    )
    yield "c" + dump_contract(state)
    events += [
        ev.TagDefined(1, "web"),
        ev.PolicyUpdated(policy.hash),
        ev.RoleUpdated("minter", OWNER, held=True),
        ev.OwnerOffered(None),
        ev.OwnerUpdated(OTHER),
        ev.PauseUpdated(paused=True),
        ev.InvitationRedeemed(policy.hash, 5),
        ev.InvitationCancelled(policy.hash),
        ev.ContractRead(state),
        ev.PolicyRead(policy),
    ]
    yield from ("e" + dump_event(event) for event in events)


def _made(version: int = 4) -> Made:
    return Made(report_data(PublicKey(bytes(range(32)))), rooted(), version=version)


def for_quote() -> Iterable[bytes]:
    return [_made(version).quote() for version in (4, 5)]


def for_event_log() -> Iterable[str]:
    made = _made()
    firmware = {"imr": 0, "event_type": 1, "digest": "ab" * 48, "event": "", "event_payload": ""}
    yield from (made.event_log, json.dumps([firmware, *made.events]), "[]")


def for_attest() -> Iterable[bytes]:
    for version in (4, 5):
        made = _made(version)
        intel = made.authority.collateral().encode()
        yield blob(intel) + blob(made.quote()) + made.event_log.encode()
