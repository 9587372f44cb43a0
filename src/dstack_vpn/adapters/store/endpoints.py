"""The peers' last known endpoints, in a file of the state directory. Its loss does no harm."""

import asyncio
import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path

from dstack_vpn.adapters.store.private import write_private
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError, StoreError


class EndpointFile:
    """See `ports.EndpointMemory`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> Mapping[PublicKey, SocketAddress]:
        """See `ports.EndpointMemory.load`."""
        return await asyncio.to_thread(self._load)

    async def save(self, endpoints: Mapping[PublicKey, SocketAddress]) -> None:
        """See `ports.EndpointMemory.save`."""
        text = json.dumps({str(key): [*place] for key, place in endpoints.items()})
        try:
            await asyncio.to_thread(write_private, self._path, text)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error

    def _load(self) -> Mapping[PublicKey, SocketAddress]:
        try:
            document = json.loads(self._path.read_text())
            return {PublicKey.parse(key): _place(*place) for key, place in document.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"{self._path}: {error}") from error


def _place(host: str, port: int) -> SocketAddress:
    if not 0 < port < 65536:
        raise FormatError("expected a port from 1 to 65535")
    return SocketAddress(str(ipaddress.ip_address(host)), int(port))
