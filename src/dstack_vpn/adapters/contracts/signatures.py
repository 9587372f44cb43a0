"""Selectors and topics of the registry contracts, as constants: no hashing at run time.

A test compares them with the values that the contracts' build computed.
"""

from typing import Final

# -- events of both contracts ----------------------------------------------------------------------

TRANSFER: Final = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
NODE_ACCESS_GRANTED: Final = "0x9a71852b5ff3e6dcfff28eaeb177387d7be860dcf63f02bc0c74d796d373a22c"
NODE_ACCESS_REVOKED: Final = "0xf77547477629bf8d4b78aaa6babeeb3306e56da1ca9b54caceabf24cbc922020"
NODE_ACCESS_TRANSFERRED: Final = "0x692842951e9a8bdcf099c908e8dd428dedcb5c44056d3b636cd82870c5fd12b2"
PUBLIC_KEY_UPDATED: Final = "0xa850082d2fb101274de37494dc864e9277de33c04415c7ad9db57592c60511a5"

# -- events of AccessRegistry ----------------------------------------------------------------------

NODE_KEY_UPDATED: Final = "0x352e8183a66d9ece687176d0fa0ef927b7c0165b3043dc7192d566a4dd2ae53b"
NODE_ENDPOINT_UPDATED: Final = "0x7c09c5e9a94bc8d2e5f67c05c89c0e7e81112cfbb1527daecb3778f4ccaa8082"
NODE_EXPIRY_UPDATED: Final = "0x2c708d2f2329133d39c48c26a5aea3ac25263ae8cc34dd6d68419edecec33829"
NODE_TAGS_UPDATED: Final = "0x0983d613ce056a70595c17adbf9a8c0826d8dd2831107af3f05fd61302951031"
NODE_ROUTES_UPDATED: Final = "0x77b73a0c562056539d2617d2beb2f857eb8c7e3deb2cf165dcc76f546e68ce5a"
TAG_DEFINED: Final = "0x43e68a06cdaf16f006b9cac05e22e91bef99081690c48ccc5b590d02d12ead1d"
POLICY_UPDATED: Final = "0x58722cff4cfeaed2eb7043b72ff6922d9843ac754c33e201627de9bffd23b97a"
INVITATION_REDEEMED: Final = "0x9dd4e901d739fa226585c2a74f6997d50f65ec55bd8603d9fecf267b93451cf5"
INVITATION_CANCELLED: Final = "0xd9cb40a4583c300d34ad4fcbcac83d1facccf6033d811a7e712b094440574563"
POLICY_ADMINISTRATOR_ADDED: Final = "0xbade357a53f27078f737ea833e6d25260cc7685c739b3069fa6421e4a3522c38"
POLICY_ADMINISTRATOR_REMOVED: Final = "0xa33d9f6540293a95b2c4515068ecfd3fc5c8c690e66af981bc5d269c578215ec"
MINTER_ADDED: Final = "0x6ae172837ea30b801fbfcdd4108aa1d5bf8ff775444fd70256b44e6bf3dfc3f6"
MINTER_REMOVED: Final = "0xe94479a9f7e1952cc78f2d6baab678adc1b772d936c6583def489e524cb66692"
OWNERSHIP_TRANSFER_INITIATED: Final = "0xb150023a879fd806e3599b6ca8ee3b60f0e360ab3846d128d67ebce1a391639a"
OWNERSHIP_TRANSFERRED: Final = "0x8be0079c531659141344cd1fd0a4f28419497f9722a3daafe3b4186f6b6457e0"
PAUSED_LOG: Final = "0x62e78cea01bee320cd4e420270b5ea74000d11b0c9f74754ebdbfc544b05a258"
UNPAUSED_LOG: Final = "0x5db9ee0a495bf2e6ff9c91a7834c1ba4fdd244a5e8aa4e537bd38aeae4b073aa"

# -- reading ---------------------------------------------------------------------------------------

ACCESS_REGISTRY_ID: Final = bytes.fromhex("9fe92739")
"""ERC-165 interface id of ``IAccessRegistry``."""
ACCESS_REGISTRY_V1_ID: Final = bytes.fromhex("fea7aea3")
"""The same of its first version, without tags, routes, policy and invitations."""
NO_INTERFACE_ID: Final = bytes.fromhex("ffffffff")
"""The id for which every contract must return false (ERC-165)."""

SUPPORTS_INTERFACE: Final = bytes.fromhex("01ffc9a7")
GET_NODE: Final = bytes.fromhex("4f0f4aa9")
GET_NODES: Final = bytes.fromhex("038d67e8")
GET_NODE_ACCESS: Final = bytes.fromhex("6a572da6")
HAS_NODE_ACCESS: Final = bytes.fromhex("54698191")
VERIFY_ACCESS: Final = bytes.fromhex("9da9ca5e")
GET_PUBLIC_KEY_BY_OWNER: Final = bytes.fromhex("e02129d3")
GET_TOKEN_ID_BY_NODE_ID: Final = bytes.fromhex("b9244a9f")
OWNER_OF: Final = bytes.fromhex("6352211e")
TOKEN_URI: Final = bytes.fromhex("c87b56dd")
IS_INVITATION_USED: Final = bytes.fromhex("e136d860")
IS_MINTER: Final = bytes.fromhex("aa271e1a")
OWNER: Final = bytes.fromhex("8da5cb5b")
PAUSED: Final = bytes.fromhex("5c975abb")
TAGS: Final = bytes.fromhex("de6b7e09")
POLICY: Final = bytes.fromhex("0505c8c9")
MINTERS: Final = bytes.fromhex("f97b57ec")
PENDING_OWNER: Final = bytes.fromhex("e30c3978")
POLICY_ADMINISTRATORS: Final = bytes.fromhex("29c675df")
POLICY_HASH: Final = bytes.fromhex("098fb624")
REVISION: Final = bytes.fromhex("7cc96380")

# -- writing ---------------------------------------------------------------------------------------

MINT_NODE_ACCESS: Final = bytes.fromhex("eb27f948")
REVOKE_NODE_ACCESS: Final = bytes.fromhex("be1ba406")
TRANSFER_FROM: Final = bytes.fromhex("23b872dd")
TRANSFER_CONTRACT_OWNERSHIP: Final = bytes.fromhex("a843c51f")
UPDATE_PUBLIC_KEY: Final = bytes.fromhex("66e50738")
SET_ENDPOINT: Final = bytes.fromhex("1bd65dc0")
SET_EXPIRY: Final = bytes.fromhex("fc284d11")
ADD_MINTER: Final = bytes.fromhex("983b2d56")
REMOVE_MINTER: Final = bytes.fromhex("3092afd5")
ADD_POLICY_ADMINISTRATOR: Final = bytes.fromhex("bc35305a")
REMOVE_POLICY_ADMINISTRATOR: Final = bytes.fromhex("3aa89c87")
SET_POLICY: Final = bytes.fromhex("6b4c991b")
PAUSE: Final = bytes.fromhex("8456cb59")
UNPAUSE: Final = bytes.fromhex("3f4ba83a")
ACCEPT_OWNERSHIP: Final = bytes.fromhex("79ba5097")
DEFINE_TAG: Final = bytes.fromhex("581be1ea")
SET_TAGS: Final = bytes.fromhex("07e2a3b6")
SET_ROUTES: Final = bytes.fromhex("85bcbf0b")
MULTICALL: Final = bytes.fromhex("ac9650d8")
REDEEM: Final = bytes.fromhex("2108f12d")
CANCEL_INVITATION: Final = bytes.fromhex("d8997e49")

# -- reverts that the compiler generates -----------------------------------------------------------

ERROR: Final = bytes.fromhex("08c379a0")
"""``Error(string)``: ``require`` with a text."""
PANIC: Final = bytes.fromhex("4e487b71")
"""``Panic(uint256)``: a failed assertion, such as an overflow."""
