"""The tags and the routes of nodes, for commands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dstack_vpn.adapters.admin.registry import Action, require
from dstack_vpn.adapters.contracts import calls, invitations, signatures
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.tagging import check_definitions, mask_of
from dstack_vpn.core.model import Cidr
from dstack_vpn.errors import EndpointError, FormatError

if TYPE_CHECKING:
    from dstack_vpn.adapters.admin.reading import RegistryReader
    from dstack_vpn.adapters.admin.registry import Access, Administrator
    from dstack_vpn.adapters.admin.transactions import Receipt


async def tags(access: "Access", action: Action = Action.LIST_TAGS) -> tuple[list[str | None], int]:
    """Return the defined tags (None: a malformed name), and the block of the reading.

    Raises `AdminError` and `ChainError`.
    """

    async def read(reader: "RegistryReader") -> tuple[list[str | None], int]:
        require(reader.abi, action)
        return await read_tags(reader)

    return await access.reading(read)


async def read_tags(reader: "RegistryReader") -> tuple[list[str | None], int]:
    """Return the tags of a registry that has them, as `tags` does. Raises `ChainError`."""
    head = await reader.session.head()
    (reply,) = await reader.replies(head, signatures.TAGS)
    try:
        return invitations.parse_tags(reply or b""), head.number
    except FormatError as error:
        raise EndpointError(f"the registry's reply for tags is malformed: {error}") from error


async def define_tags(admin: "Administrator", names: Sequence[str]) -> "tuple[Receipt, dict[str, int]]":
    """Define tags in one transaction, and return their numbers. Only the owner can.

    Raises `FormatError` if one exists or if there are too many; nothing is sent then.
    """
    defined, _ = await tags(admin.access, Action.DEFINE_TAG)
    check_definitions(names, defined)
    parts = [calls.define_tag(name) for name in names]
    data = parts[0] if len(parts) == 1 else calls.multicall(parts)
    receipt = await admin.administer(data, Action.DEFINE_TAG)
    return receipt, {name: len(defined) + number for number, name in enumerate(names)}


async def set_tags(admin: "Administrator", node: Node, names: Sequence[str]) -> "tuple[Receipt, int]":
    """Set a node's tags, and return them as a mask. Only minters can.

    Raises `FormatError` for a tag that is not defined; nothing is sent then.
    """
    defined, _ = await tags(admin.access, Action.SET_TAGS)
    mask = mask_of(names, defined)
    return await admin.administer(calls.set_tags(node.token_id, mask), Action.SET_TAGS), mask


async def set_routes(admin: "Administrator", node: Node, routes: Sequence[Cidr]) -> "Receipt":
    """Set the networks behind a node. Only minters can."""
    return await admin.administer(calls.set_routes(node.token_id, routes), Action.SET_ROUTES)
