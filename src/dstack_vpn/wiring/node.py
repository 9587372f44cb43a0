"""The adapters' functions that commands use."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from dstack_vpn.adapters import logs
from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.contracts import by_name
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.adapters.store.archive import FileArchive
from dstack_vpn.config import Settings
from dstack_vpn.core.access.expiry import ExpiryClock
from dstack_vpn.core.chain.unsent import Mode
from dstack_vpn.core.model import Address, BlockRef, DeviceState
from dstack_vpn.daemon.peers.endpoints import EndpointBook
from dstack_vpn.errors import ConfigError
from dstack_vpn.wiring.addresses import destinations
from dstack_vpn.wiring.rpc import rpc_urls

if TYPE_CHECKING:
    # Imported on use: the daemon does not need the commands' transactions. The commands import the
    # types from here.
    from dstack_vpn.adapters.admin import reading, registry, transactions

    Access: TypeAlias = registry.Access
    Administrator: TypeAlias = registry.Administrator
    NodeName: TypeAlias = reading.NodeName
    Receipt: TypeAlias = transactions.Receipt
    Snapshot: TypeAlias = reading.RegistrySnapshot


def registry_access(settings: Settings) -> "Access":
    """Return the registry for a command's reading, and reduce logging to errors."""
    from dstack_vpn.adapters.admin.registry import Access

    logs.configure("error", {}, "console")
    abi = None if settings.contract_abi == "auto" else by_name(settings.contract_abi)
    return Access(rpc_urls(settings), settings.chain_id, settings.contract_address, abi, settings.start_block)


def administrator(
    settings: Settings,
    report: Callable[[str], None],
    timeout: float,
    mode: Mode = Mode.SEND,
    sender: Address | None = None,
) -> "Administrator":
    """Return an administrator, which sends transactions to the registry.

    In another mode than `Mode.SEND`, it needs no key, and ``sender`` is its account. Raises
    `ConfigError` and `AdminError` without a usable key to sign with, and `FormatError` for a wrong
    checksum of ``sender``.
    """
    from dstack_vpn.adapters.admin.registry import Administrator
    from dstack_vpn.adapters.admin.signer import Keyless, Signer

    if mode is Mode.CALLDATA or sender is not None:
        return Administrator(registry_access(settings), Keyless(sender), report, timeout, mode)
    if settings.contract_private_key is None:
        raise ConfigError(["CONTRACT_PRIVATE_KEY (or CONTRACT_PRIVATE_KEY_FILE): is not set"])
    signer = Signer(settings.contract_private_key.reveal())
    return Administrator(registry_access(settings), signer, report, timeout, mode)


def account_of(settings: Settings, mode: Mode, sender: Address | None) -> Address | None:
    """Return the account of `administrator`; None if it is unknown."""
    from dstack_vpn.adapters.admin.signer import Keyless

    signer = administrator(settings, lambda _: None, 0, mode, sender).signer
    return signer.known if isinstance(signer, Keyless) else signer.address


def node_name(text: str) -> "NodeName":
    """Parse a node's name as a user types it; raises `FormatError`."""
    from dstack_vpn.adapters.admin.reading import NodeName

    return NodeName.parse(text)


def now() -> float:
    """Return the present time (Unix seconds)."""
    return SystemClock().now()


def judged_now(settings: Settings, at: BlockRef) -> float:
    """Return the Unix time against which a command compares expiries in a block's state."""
    clock = ExpiryClock()
    if settings.network.block_time is not None:  # else any client can set the chain's time
        clock.adopted(float(at.timestamp), 0.0)
    return clock.now(now(), 0.0)


async def look_at_device(settings: Settings) -> DeviceState | None:
    """Return the device's state without a change; None if it does not exist.

    Raises `DeviceError`.
    """
    from dstack_vpn.adapters.admin.device import look

    return await look(settings.interface)


def endpoint_book(settings: Settings) -> EndpointBook:
    """Return an empty endpoint book that uses the system's resolver."""
    return EndpointBook(SystemResolver(destinations(settings)), SystemClock())


def archive(settings: Settings) -> FileArchive:
    """Return the wg-quick file and its backups."""
    return FileArchive(settings.wireguard_config, settings.state_dir)
