"""A link that chooses its backend when it is started.

A requirement that is missing (a capability, /dev/net/tun, a program) may become available later.
The daemon reports it in the health check instead of exiting. Therefore it is a failed start like
any other.
"""

from collections.abc import Awaitable, Callable, Collection

from dstack_vpn.core.model import Cidr
from dstack_vpn.errors import DeviceError
from dstack_vpn.ports import Device, HostRoutes, Link, LinkSettings


class DeferredLink:
    """A `ports.Link` that delegates to the link that ``choose`` returns.

    ``choose`` raises `DeviceError`.
    """

    def __init__(self, choose: Callable[[], Awaitable[Link]]) -> None:
        self._choose = choose
        self._link: Link | None = None

    async def start(self) -> Device:
        """See `ports.Link.start`."""
        if self._link is None:
            self._link = await self._choose()
        return await self._link.start()

    async def configure(self, settings: LinkSettings) -> bool:
        """See `ports.Link.configure`."""
        return await self._chosen().configure(settings)

    async def survey(self, prefixes: Collection[Cidr]) -> HostRoutes:
        """See `ports.Link.survey`."""
        return await self._chosen().survey(prefixes)

    def obstacle(self) -> str | None:
        """See `ports.Link.obstacle`."""
        return None if self._link is None else self._link.obstacle()

    @property
    def without_ipv6(self) -> bool:
        """See `ports.Link.without_ipv6`."""
        return self._link is not None and self._link.without_ipv6

    async def gone(self) -> None:
        """See `ports.Link.gone`."""
        await self._chosen().gone()

    async def edited(self) -> None:
        """See `ports.Link.edited`."""
        await self._chosen().edited()

    async def is_up(self) -> bool:
        """See `ports.Link.is_up`."""
        return self._link is not None and await self._link.is_up()

    async def stop(self, *, keep: bool) -> None:
        """See `ports.Link.stop`."""
        if self._link is not None:
            await self._link.stop(keep=keep)

    def _chosen(self) -> Link:
        if self._link is None:
            raise DeviceError("the interface has not been set up yet")
        return self._link
