"""In which block was the contract deployed? A binary search over its code, which needs an archive node."""

import structlog

from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.fields import data
from dstack_vpn.core.model import Address
from dstack_vpn.errors import ChainError

_log = structlog.get_logger()


async def find_first_block(caller: Caller, contract: Address, head: int) -> int:
    """The contract's first block in about log2(head) calls, or 0 if the history is not kept.

    Raises `ChainError` only if the connection itself is over.
    """
    low, high = 0, head
    try:
        while low < high:
            middle = (low + high) // 2
            if data(await caller.call("eth_getCode", contract, hex(middle)), "contract code"):
                high = middle
            else:
                low = middle + 1
    except ChainError as error:
        if caller.transport.failure is not None:
            raise
        _log.info("chain.first_block_unknown", endpoint=caller.transport.url.name, problem=str(error))
        return 0
    return low
