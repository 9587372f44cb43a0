"""`dev`: a development chain with unlocked accounts, such as the compose stack's.

These commands do not sign: the chain signs for every client. They fail with an explanation on any
other chain.
"""

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import click

from dstack_vpn.cli.becoming import become_the_daemon
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.sending import CHAIN
from dstack_vpn.config import Settings
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Address, parse_node_id
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError, FormatError

PATIENCE: Final = 30.0
"""The timeout in seconds for the chain's answer, a name's resolution, and a transaction."""
_PAUSE: Final = 0.1
_GAS: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class DevChain:
    """A development chain over HTTP; every method raises `AdminError`."""

    url: str
    settings: Settings

    @classmethod
    def at(cls, settings: Settings) -> "DevChain":
        """Return the first configured endpoint over HTTP; anvil serves both on one port."""
        parts = urlsplit(settings.rpc_url[0])
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        return cls(parts._replace(scheme=scheme).geturl(), settings)

    @classmethod
    def of(cls, settings: Settings) -> "DevChain":
        """Wait for the first endpoint; raises `AdminError` if it serves another chain."""
        chain = cls.at(settings)
        found = int(_patiently(lambda: chain.rpc("eth_chainId")), 16)
        if found != settings.chain_id:
            raise AdminError(
                f"the endpoint serves chain {found}, but chain {settings.chain_id} is configured"
            )
        return chain

    def rpc(self, method: str, *params: Any) -> Any:  # noqa: ANN401 - JSON
        """Call a method and return its result."""
        from dstack_vpn.wiring import dev as wiring

        return asyncio.run(wiring.call(self.settings, self.url, method, params))

    def owner(self) -> Address:
        """Return the account that owns the registry; raises `AdminError` without unlocked ones."""
        accounts = self.rpc("eth_accounts")
        if not accounts:
            raise AdminError(
                "the chain has no unlocked accounts, so it is not a development chain: use 'node register'"
            )
        return str(accounts[0]).lower()

    def send(self, to: Address | None, data: bytes) -> dict[str, Any]:
        """Send a transaction of the owner, and return its receipt."""
        transaction = {"from": self.owner(), "data": "0x" + data.hex(), "gas": hex(_GAS)}
        if to is not None:
            self.rpc("eth_call", {**transaction, "to": to}, "latest")  # it returns the reason of a revert
            transaction["to"] = to
        receipt: dict[str, Any] = self.rpc("eth_sendTransactionSync", transaction)
        if receipt["status"] != "0x1":
            raise AdminError("the transaction was reverted")
        return receipt


def _patiently(work: Any) -> Any:  # noqa: ANN401 - returns the result of any work
    """Repeat ``work`` until it succeeds; raises its last `AdminError` after `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except AdminError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


@click.group()
def dev() -> None:
    """Set up a development chain, whose accounts are unlocked."""


@dev.command()
@with_settings("NETWORK", "RPC_URL", "CHAIN_ID")
def status(settings: Settings) -> None:
    """Exit with 0 if the development chain answers, for a container's health check."""
    click.echo(f"block {int(DevChain.at(settings).rpc('eth_blockNumber'), 16)}")


@dev.command()
@with_settings(*CHAIN)
def deploy(settings: Settings) -> None:
    """Deploy the registry if it does not exist; the chain's first account owns it."""
    from dstack_vpn.wiring import dev as calls

    chain, contract = DevChain.of(settings), settings.contract_address
    if chain.rpc("eth_getCode", contract, "latest") != "0x":
        click.echo(f"The registry exists: {contract}")
        return
    deployed = str(chain.send(None, calls.deploy(chain.owner()))["contractAddress"]).lower()
    if deployed != contract:
        raise AdminError(f"the registry was deployed as {deployed}, but CONTRACT_ADDRESS is {contract}")
    click.echo(f"The registry is deployed: {contract}")


@dev.command(
    epilog="""\b
Example:
  NODE_ID=a NETWORK=local WIREGUARD_PRIVATE_KEY=generate dstack-vpn dev join --at a.data"""
)
@click.option(
    "--at",
    metavar="NAME",
    help="A host name that resolves to an address of this machine, and possibly to others. That address "
    "is registered as the node's endpoint.",
)
@with_settings(need=["WIREGUARD_PRIVATE_KEY"])
def join(settings: Settings, at: str | None) -> None:
    """Register this node if necessary, and continue as 'run'.

    Without NODE_ID, the machine's name is the node id. A revoked node stays revoked.
    """
    from dstack_vpn.wiring.keys import with_key

    settings = asyncio.run(with_key(settings))
    assert settings.wireguard_private_key is not None
    key, node_id = derive(settings.wireguard_private_key), settings.node_id or _machine()
    endpoint = (
        "" if at is None else f"{_patiently(lambda: _own_address(settings, at))}:{settings.listen_port}"
    )
    chain = DevChain.of(settings)
    _patiently(lambda: _register(chain, settings, node_id, key, endpoint))
    become_the_daemon(["--node-id", node_id])


def _machine() -> str:
    try:
        return parse_node_id(socket.gethostname())
    except FormatError as error:
        raise AdminError(f"the machine's name is not a valid node id: {error}; set NODE_ID") from error


def _own_address(settings: Settings, name: str) -> str:
    """Return the address of a name that belongs to this machine; raises `AdminError`."""
    from dstack_vpn.wiring import dev as wiring

    try:
        found = wiring.addresses_of(settings, name)
    except OSError as error:
        raise AdminError(f"--at {name}: {error.strerror}") from error
    for address in sorted(found):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                continue  # the address of another machine
            return address
    raise AdminError(f"--at {name}: none of its addresses belongs to this machine")


def _register(chain: DevChain, settings: Settings, node_id: str, key: PublicKey, endpoint: str) -> None:
    """Register this node, or update its key and endpoint; the first account holds every node."""
    from dstack_vpn.wiring import dev as calls

    node, contract = _find(settings, node_id), settings.contract_address
    if node is not None and not node.active:
        click.echo(f"{node_id} (token {node.token_id}) was revoked", err=True)
        return
    if node is None:
        chain.send(contract, calls.mint(chain.owner(), node_id, key))
        node = _find(settings, node_id)
        if node is None:
            raise AdminError(f"{node_id} was registered, but the registry does not contain it yet")
        click.echo(f"{node_id} is registered as token {node.token_id}", err=True)
    elif node.public_key != key:
        chain.send(contract, calls.update_key(node.token_id, key))
    if str(node.endpoint or "") != endpoint:
        chain.send(contract, calls.set_endpoint(node.token_id, endpoint))


def _find(settings: Settings, node_id: str) -> Node | None:
    import asyncio

    from dstack_vpn.errors import ChainError
    from dstack_vpn.wiring import node as wiring

    name = wiring.node_name(f"node:{node_id}")
    try:
        snapshot = asyncio.run(wiring.registry_access(settings).one(name))
    except ChainError as error:
        raise AdminError(str(error)) from error
    return name.find(snapshot.registry)
