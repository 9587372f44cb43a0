"""Keystore files (Web3 secret storage, version 3), as Geth, cast and other wallets write them.

No message or traceback of this module shows the password or the key. The parameters of the key
derivation are limited, because they determine the memory and the time that the file costs.
"""

import json
from typing import Any, Final

from dstack_vpn.adapters.admin.signer import Signer, account_class
from dstack_vpn.errors import ConfigError

_MEMORY: Final = 1 << 30
"""Bytes for scrypt: four times Geth's."""
_ITERATIONS: Final = 20_000_000
_WORK: Final = 16
"""The limit of scrypt's parameter p."""


def decrypt(content: str, password: str) -> str:
    """Return the key in a keystore, as 64 hexadecimal digits.

    Raises `ConfigError` for a malformed keystore and for a wrong password, and `AdminError` without
    eth-account.
    """
    document, account = parse(content), account_class()
    key, problem = _decrypt(account, document, password)
    if key is None:
        raise ConfigError([f"--keystore: {problem}"])
    stated = document.get("address")
    if isinstance(stated, str) and stated.lower().removeprefix("0x") != Signer(key).address[2:]:
        raise ConfigError(["--keystore: the file states another address than that of its key: restore it"])
    return key


def _decrypt(account: Any, document: dict[str, Any], password: str) -> tuple[str | None, str]:  # noqa: ANN401 - the library has no types
    """Return the key, or None and the problem; no error's context may contain the password."""
    try:
        return bytes(account.decrypt(document, password)).hex(), ""
    except ValueError as error:
        if "MAC mismatch" in str(error):
            return None, "the password is wrong"
        return None, "the file is damaged: restore it from a backup"
    except Exception:  # noqa: BLE001 - the library raises various errors for a malformed file
        return None, "the file is damaged: restore it from a backup"


def parse(content: str) -> dict[str, Any]:
    """Return a keystore's document, whose key derivation is affordable; raises `ConfigError`."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    crypto = None
    if isinstance(document, dict):
        document = {str(key).lower(): value for key, value in document.items()}
        crypto = document.get("crypto")
    if not isinstance(document, dict) or not isinstance(crypto, dict) or document.get("version") != 3:
        raise ConfigError(
            ["--keystore: expected Web3 secret storage, version 3 (create one with 'cast wallet import')"]
        )
    parameters = crypto.get("kdfparams")
    if not isinstance(parameters, dict) or not _is_affordable(parameters):
        raise ConfigError(["--keystore: the parameters of its key derivation are missing or too large"])
    return document


def _is_affordable(parameters: dict[str, Any]) -> bool:
    n, r, p, c = (parameters.get(name, 1) for name in ("n", "r", "p", "c"))
    if not all(type(number) is int and number > 0 for number in (n, r, p, c)):
        return False
    return bool(128 * n * r <= _MEMORY and p <= _WORK and c <= _ITERATIONS)
