"""The settings and the environment of the child process that runs `node rotate-key`."""

import json
import os
from typing import Final

from dstack_vpn.config.parsers import GENERATE
from dstack_vpn.config.proxies import PROXY_VARIABLES
from dstack_vpn.config.settings import Settings

_PROXIES: Final = (*PROXY_VARIABLES, *(name.lower() for name in PROXY_VARIABLES))
PASSED: Final = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", *_PROXIES)
"""Variables that are not dstack-vpn settings: TLS's trusted certificates, and the RPC proxies."""


def environment() -> dict[str, str]:
    """Return the part of the environment that the child process gets."""
    variables = os.environ  # noqa: TID251 - only this package reads it
    return {name: variables[name] for name in PASSED if name in variables}


def document(settings: Settings) -> str:
    """Return the settings that a key rotation needs, as TOML; they include the account's key."""
    account = settings.contract_private_key
    values = {
        "network": settings.network.name,
        "rpc_url": ",".join(settings.rpc_url),
        "chain_id": str(settings.chain_id),
        "contract_address": settings.contract_address,
        "contract_abi": settings.contract_abi,
        "state_dir": str(settings.state_dir),
        "wireguard_private_key": GENERATE,
        "contract_private_key": "" if account is None else account.reveal(),
    }
    if settings.start_block is not None:
        values["start_block"] = str(settings.start_block)
    return "".join(f"{key} = {quoted(value)}\n" for key, value in values.items())


def quoted(text: str) -> str:
    """Return a TOML basic string; its escapes are JSON's, except those of surrogate halves."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
