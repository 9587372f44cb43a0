"""Logs and replies encoded by eth-abi, an independent encoder."""

import json
from functools import cache
from importlib import resources
from typing import Any

from eth_abi.abi import encode

from dstack_vpn.core.model import BlockRef
from dstack_vpn.ports import Log

AT = BlockRef(number=77, hash="0x" + "7" * 64, parent_hash="0x" + "6" * 64, timestamp=1_800_000_000)
NODE_VIEW = "(uint256,address,string,string,string,string,uint64,uint64,uint64,bool,bool,uint256,bytes32[])"
ZERO = f"0x{0:040x}"


@cache
def artifact() -> dict[str, Any]:
    file = resources.files("dstack_vpn.adapters.contracts") / "artifacts" / "AccessRegistry.json"
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def event_log(name: str, *args: Any) -> Log:
    """Return a log of our contract's event with this name."""
    item = next(x for x in artifact()["abi"] if x["type"] == "event" and x["name"] == name)
    signature = f"{name}({','.join(x['type'] for x in item['inputs'])})"
    pairs = list(zip(item["inputs"], args, strict=True))
    topics = ["0x" + encode([x["type"]], [value]).hex() for x, value in pairs if x["indexed"]]
    plain = [(x["type"], value) for x, value in pairs if not x["indexed"]]
    data = encode([kind for kind, _ in plain], [value for _, value in plain])
    return log((artifact()["events"][signature], *topics), data)


def log(topics: tuple[str, ...], data: bytes) -> Log:
    return Log(topics, data, AT.number, AT.hash, 0, removed=False)
