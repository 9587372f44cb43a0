"""A node's own key, if it is not in the settings (made here, or the guest agent's), and its own token."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from dstack_vpn.adapters import keyfile
from dstack_vpn.adapters.keys.keyring import FileKeyRing, forget, make_next
from dstack_vpn.config import Settings
from dstack_vpn.core.access.control import NodeIdentity
from dstack_vpn.core.chain.account import address_of
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AgentError, FormatError

__all__ = ["FileKeyRing", "forget", "identity_of", "make_next", "with_key"]

_log = structlog.get_logger(component="node")

PATIENCE: Final = 30
"""Tries to reach the guest agent, which starts with the machine, and seconds between them."""
PAUSE: Final = 1.0


def identity_of(settings: Settings) -> NodeIdentity:
    """How this node knows its own token: by NODE_ID, or by the account that changes its key (KEY_MAX_AGE)."""
    account = None
    if settings.key_max_age and settings.contract_private_key is not None:
        with suppress(FormatError):  # whatever uses it says what is wrong with it
            account = address_of(settings.contract_private_key.reveal())
    return NodeIdentity(settings.node_id, account)


async def with_key(settings: Settings) -> Settings:
    """The settings with a key, where they ask for one to be made or derived; raises `DstackVpnError`."""
    if settings.key_from_agent:
        return await _from_agent(settings)
    if settings.wireguard_private_key is not None or settings.key_file is None:
        return settings
    key = keyfile.make(settings.key_file)
    _log.info("key.made", public_key=str(derive(key)), file=str(settings.key_file))
    return replace(settings, wireguard_private_key=key)


async def _from_agent(settings: Settings) -> Settings:
    from dstack_vpn.adapters.keys.guest_agent import GuestAgent

    agent = GuestAgent(settings.dstack_simulator_endpoint)
    for left in reversed(range(PATIENCE)):
        try:
            key = await agent.wireguard_key()
        except AgentError as error:
            if not left:
                raise
            _log.warning("key.agent_waited_for", problem=str(error))
            await asyncio.sleep(PAUSE)
        else:
            _log.info("key.derived", public_key=str(derive(key)), agent=agent.endpoint)
            return replace(settings, wireguard_private_key=key)
    raise AssertionError
