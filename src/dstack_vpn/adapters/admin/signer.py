"""The account that signs transactions. No repr, message or traceback of this module shows its key.

eth-account (the extra ``admin``) is imported only here, and only to sign or to check an address.
"""

import sys
from typing import Any, NamedTuple

from dstack_vpn.core.chain.account import keccak256
from dstack_vpn.core.chain.invitation import TypedData
from dstack_vpn.core.model import Address
from dstack_vpn.errors import AdminError, ConfigError, FormatError


class SignedTransaction(NamedTuple):
    """A signed transaction and its hash."""

    raw: bytes
    hash: str


class Signer:
    """An account with its key."""

    __slots__ = ("__account", "address")

    def __init__(self, key: str) -> None:
        """Use ``key``, 64 hexadecimal digits.

        Raises `ConfigError` if they are not a valid private key of the curve, and `AdminError` if
        eth-account is missing.
        """
        account: Any = account_class()
        try:
            self.__account = account.from_key(key)
        except Exception:  # noqa: BLE001 - the message and frames of any error may contain the key
            problem = "CONTRACT_PRIVATE_KEY (or CONTRACT_PRIVATE_KEY_FILE): not a private key of secp256k1"
        else:
            self.address: Address = str(self.__account.address).lower()
            return
        # Outside of the handler, so that the error's context does not contain the key either.
        raise ConfigError([problem])

    def sign(self, transaction: dict[str, Any]) -> SignedTransaction:
        """Sign a transaction with complete fields."""
        signed = self.__account.sign_transaction(transaction)
        return SignedTransaction(bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex())

    def sign_typed(self, document: TypedData) -> bytes:
        """Sign a structured message (EIP-712)."""
        return bytes(self.__account.sign_message(_encoded(document)).signature)

    def __repr__(self) -> str:
        return f"Signer({self.address}, ***)"

    def __reduce__(self) -> str:
        raise TypeError("a signer can't be serialized")


class Keyless:
    """An account whose key is in another wallet; its address may be unknown."""

    __slots__ = ("known",)

    def __init__(self, address: Address | None) -> None:
        self.known = None if address is None else check_address(address)

    @property
    def address(self) -> Address:
        """The address; raises `AdminError` if it is unknown."""
        if self.known is None:
            raise AdminError(
                "the transaction depends on the account that will send it: add its address with --sender"
            )
        return self.known


def check_address(text: str) -> Address:
    """Return an address in lower case. Raises `FormatError` if its checksum is wrong.

    An address of mixed case has a checksum (EIP-55), whose hash function is part of eth-account.
    """
    digits = text.removeprefix("0x")
    if digits in (digits.lower(), digits.upper()):
        return text.lower()
    account_class()
    from eth_utils.address import is_checksum_address

    if not is_checksum_address(text):
        raise FormatError("the address's checksum is wrong (EIP-55): check it for a typing error")
    return text.lower()


def typed_hash(document: TypedData) -> bytes:
    """Return the EIP-712 hash of a structured message; raises `AdminError` without eth-account."""
    message = _encoded(document)
    return keccak256(b"\x19" + message.version + message.header + message.body)


def signer_of(document: TypedData, signature: bytes) -> Address | None:
    """Return the account that signed a structured message.

    None if the signature is not an account's. Raises `AdminError` without eth-account.
    """
    account: Any = account_class()
    try:
        return str(account.recover_message(_encoded(document), signature=signature)).lower()
    except Exception:  # noqa: BLE001 - the library raises various errors for a malformed signature
        return None


def _encoded(document: TypedData) -> Any:  # noqa: ANN401 - the library has no types
    account_class()
    from eth_account.messages import encode_typed_data

    return encode_typed_data(dict(document.domain), dict(document.types), dict(document.message))


def account_class() -> type:
    """Return eth-account's class; raises `AdminError` if the library is missing."""
    # The import raises the recursion limit to 100,000 (in py_ecc). Deeply nested JSON from a
    # hostile endpoint would then cause a segmentation fault instead of an error.
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
