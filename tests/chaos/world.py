"""The network of a chaos run: a chain, endpoints that can fail, five nodes, a relay, and pings.

    chain    anvil, with three endpoints of `gateway` for each node
    a, b     faults never affect their devices: a's pings to b must not be lost
    c        the third node
    d        has a quorum of two of three endpoints, and is reachable only through a relay
    relay    tcp2udp for d, a separate program
    m        uses what is behind other nodes (`behind`)

The contract's state is read from anvil directly, and the devices' from their control sockets,
without the daemon's code.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any, Final

from demo.chain import PORT, real_anvil
from demo.lab import Lab, Tools
from demo.namespaces import Namespace, wait_until
from demo.node import WIREGUARD_PORT, LabNode, new_key
from demo.ping import Ping
from eth_abi.abi import decode
from tests.anvil import anvil_path
from tests.chaos import gateway
from tests.chaos.behind import EXIT, GATEWAY, OFFICE, OFFICES, PHONE, SETTINGS, USER, Behind
from tests.chaos.invariants import Invariants
from tests.chaos.observer import Observer, Token
from tests.chaos.plan import SLOTS, Change
from tests.netns_support import is_usable, wireguard_go

from dstack_vpn.adapters.contracts import calls, signatures
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError

HOSTS: Final = ("192.168.77.251", "192.168.77.252", "192.168.77.253")
"""The endpoints' addresses. Two ports of one host would count as one endpoint of d's quorum."""
ENDPOINTS: Final = len(HOSTS)
RESYNC: Final = 5000
"""Milliseconds between resyncs. The default is 30 s."""
PROBE: Final = "probe"
"""The member whose key changes at the end of each round, to show which nodes follow the chain."""
_NODE_VIEW: Final = (
    "(uint256,address,string,string,string,string,uint64,uint64,uint64,bool,bool,uint256,bytes32[])"
)
_GET_NODES: Final = "0x038d67e8"
_PAGE: Final = 200
_RELAY_PORT: Final = 4443
_PING: Final = 0.02
BYSTANDERS: Final = ("ab", "bc")
"""The pairs that ping continuously. Losses count while no fault affects either device."""
MARGIN: Final = 70
"""Blocks above the nodes' tokens: more than the deepest reorg."""
NODES: Final = "cabdm"
"""In the order of their tokens: c is preferred to a as a gateway."""
FORWARDS: Final = 2
"""The tag of gateways."""
VIA: Final = "via:"
"""The beginning of a plain client's endpoint."""
WEB: Final = 1
"""The tag that the policy grants a port to."""
TABLE: Final = "dstack_vpn_wg0"
DISK: Final = 8 << 20
"""The size of a node's state directory in bytes. It is a separate file system."""


@dataclass
class World:
    """The network; `world` makes one."""

    lab: Lab
    gateway: "subprocess.Popen[str]"
    relay_namespace: Namespace
    relay_address: str
    behind: Behind
    observer: Observer = field(init=False)
    relay: "subprocess.Popen[str] | None" = None
    pings: dict[str, Ping] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    """The tokens by name, without the revoked ones."""
    transactions: int = 0
    begun_at: int = 0
    """The head at anvil's last start."""

    @property
    def nodes(self) -> dict[str, LabNode]:
        return self.lab.nodes

    @property
    def invariants(self) -> Invariants:
        return self.observer.invariants

    # -- nodes -------------------------------------------------------------------------------------

    def start(self, node: LabNode, **more: str) -> None:
        """Start a node's daemon; ``more`` is added to its environment."""
        settings = {
            "RPC_URL": ",".join(f"ws://{host}:{port}" for host, port in zip(HOSTS, ports(node), strict=True)),
            "RPC_QUORUM": "2" if node.name == "d" else "1",
            "SYNC_INTERVAL": str(RESYNC),
            "FOLLOW": "economy" if node.name == "b" else "full",
            "HEAD_INTERVAL": "5s",
            "WIREGUARD_CONFIG": str(node.home / "state" / "wg0.conf"),
        }
        node.start(**settings, **(SETTINGS if node.name == USER else {}), **more)

    def start_with_clock(self, node: LabNode, clock: Path) -> None:
        """Start a node's daemon with a clock that a file moves, by libfaketime.

        The library reads the file once per second. It slows the daemon down, so it is used only for
        this fault.
        """
        self.start(
            node,
            LD_PRELOAD=str(faketime()),
            FAKETIME_TIMESTAMP_FILE=str(clock),
            FAKETIME_CACHE_DURATION="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        )

    def start_relay(self) -> None:
        """Start d's relay."""
        target = f"{self.nodes['d'].underlay}:{WIREGUARD_PORT}"
        with (self.lab.run.home / "relay.log").open("ab") as log:
            self.relay = self.relay_namespace.popen(
                *(sys.executable, "-m", "dstack_vpn", "relay", "tcp2udp"),
                *("--listen", f"tcp://{self.relay_address}:{_RELAY_PORT}", "--to", target),
                env={"PATH": os.defpath, "LOG_FORMAT": "json"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_relay(self) -> None:
        if self.relay is not None:
            self.relay.kill()
            self.relay.wait(5)

    def order(self, node: LabNode | None, fault: str | None, *, used: bool = False, at: int = 0) -> None:
        """Begin or end a fault of a node's endpoints, or of all nodes' (None)."""
        chosen = self.nodes.values() if node is None else [node]
        order = {
            "ports": [p for each in chosen for p in ports(each)],
            "fault": fault,
            "used": used,
            "at": at,
        }
        assert self.gateway.stdin is not None
        assert self.gateway.stdout is not None
        self.gateway.stdin.write(json.dumps(order) + "\n")
        self.gateway.stdin.flush()
        if self.gateway.stdout.readline().strip() != "ok":
            raise AdminError(f"the gateway has exited; read {self.lab.run.home}/gateway.log")

    # -- the contract ------------------------------------------------------------------------------

    def read_contract(self, since: float) -> None:
        """Read the contract's state, which holds from ``since`` (monotonic seconds) on."""
        chain, found = self.lab.chain, list[Token]()
        offset, total = 0, 1
        while offset < total:
            data = f"{_GET_NODES}{offset:064x}{_PAGE:064x}"
            answer = bytes.fromhex(chain.rpc("eth_call", {"to": chain.contract, "data": data}, "latest")[2:])
            page, total = decode([f"{_NODE_VIEW}[]", "uint256"], answer)
            offset += _PAGE
            found += [_token(row) for row in page if row[9] or row[10]]
        self.tokens = {token.name: token for token in found}
        self.observer.contract(found, since)

    def send(self, data: bytes, owner: str | None = None) -> None:
        """Mine a transaction of the contract's owner, or of ``owner``; read the new state."""
        chain, since = self.lab.chain, time.monotonic()
        chain.send(data, sender=0 if owner is None else chain.accounts.index(owner.lower()))
        self.transactions += 1
        self.read_contract(since)

    def change(self, change: Change) -> None:
        """Carry out a planned change; if the slot has no token, mint one instead."""
        if change.what == "client":
            self._change_client()
            return
        if change.what == "route":
            gateway = self.tokens[OFFICES[int(change.slot[1:]) % len(OFFICES)]]
            self.send(calls.set_routes(gateway.id, [] if gateway.routes else [OFFICE]))
            return
        token, accounts = self.tokens.get(change.slot), self.lab.chain.accounts
        if token is None or change.what == "mint":
            if token is None:
                self.send(calls.mint(accounts[5], change.slot, derive(new_key())))
        elif change.what == "revoke":
            self.send(calls.revoke(token.id))
        elif change.what == "transfer":
            to = accounts[6 if token.owner.lower() == accounts[5] else 5]
            self.send(calls.transfer(token.owner, to, token.id), token.owner)
        elif change.what == "rotate":
            self.send(calls.update_key(token.id, derive(new_key())), token.owner)
        elif change.what == "tag":
            self.send(calls.set_tags(token.id, token.tags ^ WEB))
        elif change.what == "policy":
            self.send(calls.set_policy(policy(self.port() % 60_000 + 1)))
        else:
            soon = int(time.time()) + 2  # noqa: TID251 - expiry is compared with the machine's clock
            self.send(calls.set_expiry(token.id, soon))

    def _change_client(self) -> None:
        """Revoke the phone, or give it another token."""
        token = self.tokens.get(PHONE)
        if token is not None:
            self.send(calls.revoke(token.id))
            return
        key, owner = new_key(), self.lab.chain.accounts[5]
        self.send(calls.mint(owner, PHONE, derive(key)))
        self.send(calls.set_endpoint(self.tokens[PHONE].id, f"{VIA}{GATEWAY}"), owner)
        self.behind.phone.take(key, self.tokens[PHONE].address)

    def port(self) -> int:
        """Return the port that the contract's policy opens for members with the tag."""
        chain = self.lab.chain
        call = {"to": chain.contract, "data": f"0x{signatures.POLICY.hex()}"}
        (text,) = decode(["string"], bytes.fromhex(chain.rpc("eth_call", call, "latest")[2:]))
        found = re.search(r"tcp:(\d+)", text)
        assert found is not None, text
        return int(found[1])

    def policy_problem(self, node: LabNode) -> str | None:
        """Return the difference between the contract's policy and the rules in a node's kernel."""
        table = node.namespace.run("nft", "-p", "list", "table", "inet", TABLE, check=False)
        # The groups of clients and networks have other names.
        led = dict(re.findall(r"chain (group_m\w+) \{\s+goto (rights_\w+)", table))
        rights = {
            address: led[group]
            for address, group in re.findall(r"(\d+\.\d+\.\d+\.\d+) : jump (group_m\w+)", table)
        }
        chains = dict(re.findall(r"\tchain (rights_\w+) \{\n(.*?)\n\t\}", table, re.DOTALL))
        opened = f"tcp dport {self.port()} goto "
        for token in self.tokens.values():
            if token.id == node.token or not self.invariants.has(node.name, token.key):
                continue
            rules = chains.get(rights.get(token.address, ""))
            if rules is None:
                return f"{token.name} has no rules"
            if (opened in rules) is not bool(token.tags & WEB) or "{ 1, 58 }" not in rules:
                return f"{token.name} has other rules than the policy"
        return None

    def sweep(self) -> None:
        """Revoke expired tokens, because a clock that is set back would admit them again."""
        for token in list(self.tokens.values()):
            if token.expires_at:
                self.send(calls.revoke(token.id))

    def probe(self) -> str:
        """Set another key for the probe, and return it. A node with that peer follows the chain."""
        key = derive(new_key())
        if PROBE not in self.tokens:
            self.send(calls.mint(self.lab.chain.accounts[5], PROBE, key))
        else:
            self.send(calls.update_key(self.tokens[PROBE].id, key), self.tokens[PROBE].owner)
        return str(key)

    # -- observation -------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise the exception that has ended the observer, if any."""
        if self.observer.failure is not None:
            raise self.observer.failure

    def close(self) -> None:
        """End the threads and programs that the lab does not end."""
        self.behind.close()
        self.observer.stop()
        for ping in self.pings.values():
            ping.stop()
        if self.gateway.stdin is not None:
            self.gateway.stdin.close()


def policy(port: int) -> str:
    """Return a policy: all members may ping each other; those with the tag have a port."""
    grants = [
        {"src": ["*"], "dst": ["*"], "ip": ["icmp:*"]},
        {"src": ["tag:web"], "dst": ["*"], "ip": [f"tcp:{port}"]},
        {"src": [f"node:{USER}"], "dst": ["autogroup:internet"], "ip": ["*"]},
    ]
    return json.dumps({"grants": grants})


def ports(node: LabNode) -> tuple[int, ...]:
    """Return the ports of a node's endpoints."""
    return tuple(9000 + 10 * node.owner + number for number in range(ENDPOINTS))


def _token(row: Sequence[Any]) -> Token:
    """Return the token of a `NodeView`."""
    via, routes = _gateway_in(row[4]), bool(row[12])
    return Token(row[0], row[1], row[2], row[3], row[8], row[11], via, routes)


def _gateway_in(endpoint: str) -> str:
    """Return the gateway that an endpoint names; empty for others."""
    return endpoint.removeprefix(VIA) if endpoint.startswith(VIA) else ""


def faketime() -> Path | None:
    """Return the path of libfaketime, of Debian's package faketime; None if it is missing."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


def find() -> Tools:
    """Return the programs of the end-to-end tests; raises `AdminError` if one is missing."""
    anvil, wireguard = anvil_path(), wireguard_go()
    if not is_usable() or anvil is None or wireguard is None:
        raise AdminError(
            "root, network namespaces, TUN, anvil and wireguard-go are required: run 'scripts/setup test'"
        )
    return Tools(real_anvil(Path(anvil)), Path(wireguard))


@contextlib.contextmanager
def world(tools: Tools) -> Iterator[World]:
    """Start a network in which all nodes are healthy; remove it at the end."""
    with Lab(tools) as lab:
        lab.start_chain("--state-interval", "5")
        for host in HOSTS:
            lab.chain.namespace.run("ip", "address", "add", f"{host}/24", "dev", "lan")
        for name in NODES:
            lab.add_node(name)
        relay, relay_address = lab.add_namespace("relay")
        behind = Behind.build(lab, frozenset({*HOSTS, relay_address}))
        made = World(lab, _start_gateway(lab), relay, relay_address, behind)
        try:
            _begin(made)
            yield made
        finally:
            made.close()


def _start_gateway(lab: Lab) -> "subprocess.Popen[str]":
    with (lab.run.home / "gateway.log").open("wb") as log:
        process = lab.chain.namespace.popen(
            *(sys.executable, "-P", gateway.__file__, "--host", "0.0.0.0"),
            *("--upstream", f"http://{lab.chain.address}:{PORT}"),
            *(str(port) for node in lab.nodes.values() for port in ports(node)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ok":
        raise AdminError(f"the gateway did not start: {(lab.run.home / 'gateway.log').read_text()}")
    return process


def _begin(made: World) -> None:
    """Mint the nodes, deeper than any reorg, and bring the tunnels up."""
    lab, nodes = made.lab, made.lab.nodes
    lab.chain.send(calls.multicall([calls.define_tag("web"), calls.define_tag("gateway")]))
    lab.chain.send(calls.set_policy(policy(1)))
    for node in nodes.values():
        lab.mint(node)
        if node.name != "d":
            lab.set_endpoint(node)
    endpoint = f"tcp://{made.relay_address}:{_RELAY_PORT}"
    lab.chain.send(calls.set_endpoint(nodes["d"].token, endpoint), sender=nodes["d"].owner)
    lab.chain.send(calls.set_tags(nodes[GATEWAY].token, FORWARDS))
    for name in OFFICES:
        lab.chain.send(calls.set_routes(nodes[name].token, [OFFICE]))
    lab.chain.send(calls.set_routes(nodes[EXIT].token, ["0.0.0.0/0"]))
    lab.chain.rpc("anvil_mine", hex(MARGIN))
    for node in nodes.values():
        state = node.home / "state"
        state.mkdir(mode=0o700, parents=True)
        node.namespace.run("mount", "-t", "tmpfs", "-o", f"size={DISK >> 10}k,mode=0700", "tmpfs", str(state))
    made.start_relay()
    for node in nodes.values():
        made.start(node)
    for node in nodes.values():
        node.wait_ready(20)
    made.observer = Observer(nodes)
    made.read_contract(time.monotonic())
    made.observer.start()
    for source, other in permutations(nodes.values(), 2):
        source.wait_reaches(other.address, 20)
    made.change(Change("client", SLOTS[0], 0.0))
    for name, problem, holds in made.behind.expectations(made.tokens):
        wait_until(holds, f"not: {name} {problem}", 30)
    made.behind.begin()
    for pair in BYSTANDERS:
        source, other = (nodes[name] for name in pair)
        output = lab.run.home / f"ping-{pair}.log"
        made.pings[pair] = Ping(source.namespace, other.address, output, interval=_PING)
