"""The account that signs. Its key stays inside: no repr, message or traceback of ours shows it.

eth-account (the extra ``admin``) is imported here and nowhere else, and only when something is to be signed.
"""

import sys
from typing import Any, NamedTuple

from dstack_vpn.core.model import Address
from dstack_vpn.errors import AdminError, ConfigError, FormatError


class SignedTransaction(NamedTuple):
    """A signed transaction, and its hash."""

    raw: bytes
    hash: str


class Signer:
    """An account with its key."""

    __slots__ = ("__account", "address")

    def __init__(self, key: str) -> None:
        """``key`` is 64 hexadecimal digits. Raises `ConfigError` if they are not a key of the curve.

        Raises `AdminError` if eth-account is missing.
        """
        account: Any = _account_class()
        try:
            self.__account = account.from_key(key)
        except Exception:  # noqa: BLE001 - whatever it is, its text and its frames may hold the key
            problem = "CONTRACT_PRIVATE_KEY (or CONTRACT_PRIVATE_KEY_FILE): not a private key of secp256k1"
        else:
            self.address: Address = str(self.__account.address).lower()
            return
        # Outside the handler, so that not even the context of this error leads to the key.
        raise ConfigError([problem])

    def sign(self, transaction: dict[str, Any]) -> SignedTransaction:
        """Sign a transaction whose fields are complete."""
        signed = self.__account.sign_transaction(transaction)
        return SignedTransaction(bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex())

    def __repr__(self) -> str:
        return f"Signer({self.address}, ***)"

    def __reduce__(self) -> str:
        raise TypeError("a signer is not serialized")


def check_address(text: str) -> Address:
    """An address in lower case; raises `FormatError` if it is of mixed case and its checksum is wrong.

    The checksum is EIP-55's, whose hash comes with eth-account.
    """
    digits = text.removeprefix("0x")
    if digits in (digits.lower(), digits.upper()):
        return text.lower()
    _account_class()
    from eth_utils.address import is_checksum_address

    if not is_checksum_address(text):
        raise FormatError("the address's checksum is wrong (EIP-55): is there a typing error in it?")
    return text.lower()


def _account_class() -> type:
    # Importing it raises the limit to 100,000 (py_ecc does): deeply nested JSON from a hostile endpoint would
    # then end in a segmentation fault instead of an error.
    limit = sys.getrecursionlimit()
    try:
        from eth_account import Account
    except ImportError as error:
        raise AdminError(
            "this command signs a transaction, which needs eth-account: pip install 'dstack-vpn[admin]'"
        ) from error
    finally:
        sys.setrecursionlimit(limit)
    result: type = Account
    return result
