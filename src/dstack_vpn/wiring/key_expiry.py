"""Key expiry: the rotation of this node's key by its age, if KEY_MAX_AGE is set."""

from importlib.util import find_spec

from dstack_vpn.adapters.keys.changer import CommandKeyChanger
from dstack_vpn.config import Settings, child
from dstack_vpn.wiring.rpc import rpc_urls


def changer_of(settings: Settings) -> CommandKeyChanger | None:
    """Return the key changer; None if KEY_MAX_AGE is not set or the key is not a generated one."""
    if not settings.key_max_age or settings.key_file is None:
        return None
    account = settings.contract_private_key
    secret = "" if account is None else account.reveal()
    credentials = (part for url in rpc_urls(settings) for part in url.secrets)
    return CommandKeyChanger(
        child.document(settings),
        child.environment(),
        secrets=[secret.removeprefix("0x"), *credentials],
        hindrance=_hindrance(settings),
    )


def _hindrance(settings: Settings) -> str | None:
    by_hand = "run 'dstack-vpn node rotate-key' on this machine"
    if settings.contract_private_key is None:
        return f"{by_hand}, or set CONTRACT_PRIVATE_KEY_FILE to let the daemon rotate it"
    if find_spec("eth_account") is None:
        return f"{by_hand}, or install eth-account: pip install 'dstack-vpn[admin]'"
    return None
