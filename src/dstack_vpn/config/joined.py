"""The settings file of a machine that has joined by an invitation, and its daemon's environment."""

import os
from pathlib import Path
from typing import Final

from dstack_vpn.config.child import quoted
from dstack_vpn.config.options import OPTIONS
from dstack_vpn.config.parsers import GENERATE
from dstack_vpn.config.settings import Settings

_ACCOUNT: Final = ("CONTRACT_PRIVATE_KEY", "CONTRACT_PRIVATE_KEY_FILE")
"""The daemon needs the account only to rotate its key."""
_KEYSTORE: Final = ("CONTRACT_KEYSTORE_PASSWORD", "CONTRACT_KEYSTORE_PASSWORD_FILE")
"""Only commands use a keystore."""
_FILES: Final = frozenset(f"{option.name}_FILE" for option in OPTIONS if option.secret)
_NAMES: Final = frozenset(option.name for option in OPTIONS if not option.secret) | _FILES


def document(settings: Settings, node_id: str) -> str:
    """Return a TOML file from which `run` loads the given settings as the node of this id.

    It contains no secret: paths of their files, and an RPC URL as it was given.
    """
    dropped = _KEYSTORE if settings.key_max_age else (*_ACCOUNT, *_KEYSTORE)
    given = {name: text for name, text in settings.texts.items() if name in _NAMES and name not in dropped}
    texts = given | {
        "NODE_ID": node_id,
        "NETWORK": settings.network.name,
        "CHAIN_ID": str(settings.chain_id),
        "CONTRACT_ADDRESS": settings.contract_address,
        "STATE_DIR": str(settings.state_dir),
        "WIREGUARD_PRIVATE_KEY": GENERATE,
    }
    head = "# Written by 'dstack-vpn node join'. The environment takes precedence over this file.\n"
    return head + "".join(f"{name.lower()} = {quoted(text)}\n" for name, text in texts.items())


def environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment for the daemon, without an unneeded account."""
    dropped = _KEYSTORE if settings.key_max_age else (*_ACCOUNT, *_KEYSTORE)
    variables = os.environ  # noqa: TID251 - only this package reads it
    return {name: text for name, text in variables.items() if name not in dropped}


def unwritable(path: Path) -> str | None:
    """Return the reason that a new file can't be created, with a remedy; None if it can."""
    if os.path.lexists(path):
        return f"{path} exists, and is not overwritten: remove it, or choose another file"
    nearest = next(each for each in path.absolute().parents if os.path.lexists(each))
    if not nearest.is_dir():
        return f"{nearest} is not a directory: choose another file"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"this user can't write to {nearest}: choose another file, or run the command as root"
    return None
