"""The demo's network: a chain and some nodes, each in a namespace of its own.

    chain    192.168.77.1     anvil with the registry, and the bridge that joins all of them
    a        192.168.77.11    a daemon and its WireGuard
    b        192.168.77.12    …

The namespaces reach each other only: there is no default route. Everything belongs to a *run*, a
directory in the system's temporary directory, and has its tag in its name. So two runs never share
a name, and the leftovers of a run can be found and removed. A lock on the directory marks active
runs.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import dstack_vpn
from demo.chain import LabChain, Mined
from demo.namespaces import MOUNTS, NAMED, Namespace, connect, remove, wait_until
from demo.node import Applied, LabNode
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.wireguard.keys import PublicKey

_PREFIX: Final = "dstack-vpn-demo-"
_NETWORK: Final = "192.168.77"
_BRIDGE_MAC: Final = "02:00:00:00:00:01"
"""A bridge without an address of its own takes the lowest of its members' addresses. If a member
joins with a lower one, the others send to the old address until their neighbor entry expires."""
PATIENCE: Final = 10.0
"""The limit in seconds from a change of the registry to the devices: 1,000 times the usual."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Tools:
    """The programs that a lab needs."""

    anvil: Path
    wireguard_go: Path


@dataclass(frozen=True)
class Change:
    """A change of the registry that reached devices."""

    mined: Mined
    applied: tuple[Applied, ...]

    @property
    def seconds(self) -> float:
        """Seconds from sending the transaction to the last device's acknowledgement.

        Both times are of this machine's clock: one is taken before the transaction is sent, so
        anvil's mining is included; the other is in the daemons' logs.
        """
        return max(applied.at for applied in self.applied) - self.mined.ordered

    @property
    def daemon(self) -> float | None:
        """Seconds from the event's arrival in the daemon to the acknowledgement; None: unknown."""
        known = [applied.daemon_ms for applied in self.applied if applied.daemon_ms is not None]
        return max(known) / 1000 if known else None


class LabRun:
    """The directory and the tag of one run; the names of its namespaces are made from it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tag = home.name.removeprefix(_PREFIX)
        self._lock = -1

    @classmethod
    def new(cls) -> Self:
        """Create a run, locked by this process."""
        # Under another name until it is locked: a clean-up would remove it as an ended run.
        hidden = cls(Path(tempfile.mkdtemp(prefix=f".{_PREFIX}")))
        hidden.lock()
        run = cls(hidden.home.rename(hidden.home.with_name(hidden.home.name.removeprefix("."))))
        run._lock = hidden._lock
        return run

    @classmethod
    def all(cls) -> Iterator[Self]:
        """Return this user's runs whose directories exist."""
        for home in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
            with contextlib.suppress(OSError):
                if home.is_dir() and not home.is_symlink() and home.stat().st_uid == os.geteuid():
                    yield cls(home)

    def lock(self) -> bool:
        """Lock it; returns False if another process has it."""
        descriptor = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def unlock(self) -> None:
        """Release the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def name(self, label: str) -> str:
        """Return the name of a namespace."""
        return f"dvpn-{self.tag}-{label}"

    def remove(self) -> None:
        """Remove everything with its tag, whichever process created it."""
        names = {path.name for folder in (NAMED, MOUNTS) for path in folder.glob(self.name("*"))}
        for name in sorted(names):
            remove(name)
        shutil.rmtree(self.home, ignore_errors=True)
        self.unlock()


@dataclass
class Lab:
    """A chain and its nodes; use it as a context manager."""

    tools: Tools
    run: LabRun = field(default_factory=LabRun.new)
    nodes: dict[str, LabNode] = field(default_factory=dict)
    chain: LabChain = field(init=False)
    namespaces: list[Namespace] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything; may be called twice."""
        if self.has_chain:
            self.chain.disconnect()
        self.run.remove()
        for namespace in self.namespaces:
            namespace.reap()

    def start_chain(self, *options: str) -> None:
        """Create the chain's namespace and the network, start anvil and deploy the registry."""
        namespace = self._new_namespace("chain")
        self.chain = LabChain(namespace, self.tools.anvil, f"{_NETWORK}.1", self.run.home / "chain", options)
        namespace.run("ip", "link", "add", "lan", "address", _BRIDGE_MAC, "type", "bridge")
        namespace.run("ip", "address", "add", f"{_NETWORK}.1/24", "dev", "lan")
        namespace.run("ip", "link", "set", "lan", "up")
        self.chain.start()
        self.chain.deploy()

    def leave_running(self) -> None:
        """Leave everything running after this process exits."""
        for namespace in self.namespaces:
            namespace.let_go()
        self.run.unlock()

    @property
    def has_chain(self) -> bool:
        """Return True if that has happened."""
        return hasattr(self, "chain")

    # -- nodes -------------------------------------------------------------------------------------

    def add_namespace(self, name: str) -> tuple[Namespace, str]:
        """Create a namespace on the network; returns it and its address there."""
        namespace = self._new_namespace(name)
        address = f"{_NETWORK}.{9 + len(self.namespaces)}"
        connect(namespace, self.chain.namespace, (f"{address}/24", ""), names=("eth0", f"to-{name}"))
        self.chain.namespace.run("ip", "link", "set", f"to-{name}", "master", "lan")
        return namespace, address

    def _new_namespace(self, label: str) -> Namespace:
        namespace = Namespace(name=self.run.name(label))
        self.namespaces.append(namespace)
        return namespace.__enter__()

    def add_node(self, name: str, *, program: tuple[str, ...] = LabNode.program) -> LabNode:
        """Return a new node, not running or registered; ``program`` is its `LabNode.program`."""
        namespace, address = self.add_namespace(name)
        settings = {
            "PATH": f"{self.tools.wireguard_go.parent}:{_PATH}",
            # The daemons run the same code as this process, also if another one is installed.
            "PYTHONPATH": str(Path(dstack_vpn.__file__).parents[1]),
            "NETWORK": "local",
            "RPC_URL": self.chain.url,
            "CONTRACT_ADDRESS": self.chain.contract,
            # wireguard-go on every machine: the demo does not depend on the kernel.
            "BACKEND": "userspace",
            "LOG_FORMAT": "json",
            "LOG_LEVEL_POLICY": "debug",  # the time at which rules were applied
        }
        home, owner = self.run.home / name, len(self.nodes) + 1
        node = LabNode(name, namespace, address, home, owner, settings, program=program)
        self.nodes[name] = node
        return node

    def others(self, node: LabNode) -> tuple[LabNode, ...]:
        """Return the other nodes whose daemons run."""
        return tuple(other for other in self.nodes.values() if other is not node and other.daemon is not None)

    # -- the registry ------------------------------------------------------------------------------

    def mint(self, node: LabNode) -> Mined:
        """Mint a token for a node's key."""
        mined = self.mint_key(node.name, node.public_key, node.owner)
        node.token = mined.minted
        return mined

    def mint_key(self, node_id: str, key: PublicKey, owner: int = 9) -> Mined:
        """Mint a token for a key, under a name, for any holder."""
        return self.chain.send(calls.mint(self.chain.accounts[owner], node_id, key))

    def set_endpoint(self, node: LabNode) -> Mined:
        """Set a node's endpoint, as its holder."""
        return self.chain.send(calls.set_endpoint(node.token, node.endpoint), sender=node.owner)

    def place(self, node: LabNode, on: tuple[LabNode, ...]) -> None:
        """Set a node's endpoint, and wait until these nodes have it.

        If WireGuard has data to send before it knows an endpoint, it retries after 5 s only.
        """
        self.set_endpoint(node)
        what = f"the others know the endpoint of {node.name}"
        wait_until(lambda: all(other.place_of(node.public_key) == node.endpoint for other in on), what)

    def revoke(self, node: LabNode) -> Mined:
        """Revoke a node's access."""
        return self.chain.send(calls.revoke(node.token))

    def transfer(self, node: LabNode, to: int) -> Mined:
        """Transfer a node's token to another account."""
        accounts = self.chain.accounts
        data = calls.transfer(accounts[node.owner], accounts[to], node.token)
        mined = self.chain.send(data, sender=node.owner)
        node.owner = to
        return mined

    def update_key(self, node: LabNode) -> Mined:
        """Set a node's current key, as its holder."""
        return self.chain.send(calls.update_key(node.token, node.public_key), sender=node.owner)

    # -- what comes of it --------------------------------------------------------------------------

    def gained(
        self, mined: Mined, key: PublicKey, nodes: tuple[LabNode, ...], timeout: float = PATIENCE
    ) -> Change:
        """Wait until these nodes have the peer."""
        found = (node.wait_applied(key, mined.ordered, gone=False, timeout=timeout) for node in nodes)
        return Change(mined, tuple(found))

    def set_policy(self, text: str, nodes: tuple[LabNode, ...]) -> Change:
        """Set the policy, and wait until these nodes enforce it."""
        mined = self.chain.send(calls.set_policy(text))
        found = (node.wait_enforced(mined.ordered, PATIENCE, new=True) for node in nodes)
        return Change(mined, tuple(found))

    def set_tags(self, node: LabNode, mask: int, nodes: tuple[LabNode, ...]) -> Change:
        """Set a node's tags, and wait until these nodes enforce the policy with them."""
        mined = self.chain.send(calls.set_tags(node.token, mask))
        found = (each.wait_enforced(mined.ordered, PATIENCE) for each in nodes)
        return Change(mined, tuple(found))

    def lost(
        self, mined: Mined, key: PublicKey, nodes: tuple[LabNode, ...], timeout: float = PATIENCE
    ) -> Change:
        """Wait until these nodes no longer have the peer."""
        found = (node.wait_applied(key, mined.ordered, gone=True, timeout=timeout) for node in nodes)
        return Change(mined, tuple(found))
