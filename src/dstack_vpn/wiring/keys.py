"""The identification of the node's token, and its key if it is generated or the guest agent's."""

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
"""The limit of attempts to reach the guest agent, which starts with the machine."""
PAUSE: Final = 1.0
"""Seconds between two attempts."""


def identity_of(settings: Settings) -> NodeIdentity:
    """Return the identification of the node's token: NODE_ID, or the account that rotates keys."""
    account = None
    if settings.key_max_age and settings.contract_private_key is not None:
        with suppress(FormatError):  # the code that uses it reports the problem
            account = address_of(settings.contract_private_key.reveal())
    return NodeIdentity(settings.node_id, account)


async def with_key(settings: Settings) -> Settings:
    """Return the settings, with a generated or derived key if one is configured.

    Raises `DstackVpnError`.
    """
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
