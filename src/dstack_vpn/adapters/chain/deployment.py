"""Search for the block in which the contract was deployed.

The binary search over the contract's code needs an archive node.
"""

import structlog

from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.fields import data
from dstack_vpn.core.model import Address
from dstack_vpn.errors import ChainError

_log = structlog.get_logger()


async def find_first_block(caller: Caller, contract: Address, head: int) -> int:
    """Return the contract's first block, or 0 if the endpoint keeps too little history.

    The search makes about log2(``head``) calls. Raises `ChainError` only if the connection failed.
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
