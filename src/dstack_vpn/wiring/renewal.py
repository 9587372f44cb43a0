"""Changing our own key by its age, where KEY_MAX_AGE asks for it."""

import random
from importlib.util import find_spec

from dstack_vpn.adapters.keys.changer import CommandKeyChanger
from dstack_vpn.bridge.follow import ChainLoop
from dstack_vpn.bridge.renewal import Renewal
from dstack_vpn.config import Settings, child
from dstack_vpn.core.keyage import Schedule
from dstack_vpn.ports import KeyRing
from dstack_vpn.wiring.rpc import rpc_urls


def renewal_of(settings: Settings, chain: ChainLoop, ring: KeyRing) -> Renewal | None:
    """What changes our key; None where it may get as old as it likes."""
    if not settings.key_max_age:
        return None
    account = settings.contract_private_key
    secret = "" if account is None else account.reveal()
    credentials = (part for url in rpc_urls(settings) for part in url.secrets)
    changer = CommandKeyChanger(
        child.document(settings),
        child.environment(),
        secrets=[secret.removeprefix("0x"), *credentials],
        hindrance=_hindrance(settings),
    )
    schedule = Schedule(settings.key_max_age, random.random())  # noqa: S311 - no secret, but a place in a crowd
    return Renewal(chain, ring, changer, schedule)


def _hindrance(settings: Settings) -> str | None:
    by_hand = "run 'dstack-vpn node rotate-key' on this machine"
    if settings.contract_private_key is None:
        return f"{by_hand}, or set CONTRACT_PRIVATE_KEY_FILE, and the node does it by itself"
    if find_spec("eth_account") is None:
        return f"{by_hand}, or install eth-account here: pip install 'dstack-vpn[admin]'"
    return None
