"""The node's own WireGuard keys: the key in use, and those that it can adopt."""

import asyncio
from dataclasses import dataclass, field, replace

from dstack_vpn.core.access.control import AccessControl, Reason
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.ports import KeyRing


@dataclass(slots=True)
class OwnKeys:
    """Holds the key in use; adopts another key as soon as the registry names it."""

    private: PrivateKey
    ring: KeyRing | None
    """The keys that we can adopt; None if the key is not ours to change."""
    on_disk: bool
    """Set if the private key may be written into the wg-quick file."""
    taken: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set when another key was adopted that the device does not have yet."""

    def adopt(self, access: AccessControl, now: float) -> PublicKey | None:
        """Adopt and return the key that the registry has for us, if it is one of ours; else None.

        The present key is not in force, so our own token is never taken for another node's.
        """
        if self.ring is None:
            return None
        for public, private in self.ring.others().items():
            if replace(access, own_key=public).decide(public, now).reason is Reason.OWN_KEY:
                self.private = private
                self.taken.set()
                return public
        return None
