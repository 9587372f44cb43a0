"""Seeds of an RPC endpoint's data, made with eth-abi."""

import json
from collections.abc import Iterable
from typing import Any, Final

from eth_abi.abi import encode
from eth_utils.crypto import keccak
from tests.fuzz.chain import TOPICS
from tests.fuzz.cursor import blob
from tests.fuzz.seeds.texts import OTHER, OWNER, PIN, PLAIN_URI, REACH, URI
from tests.scripted import key
from tests.unit.adapters.contracts.oracle import NODE_VIEW, artifact, event_log
from tests.unit.core.chain.invited import CODE, FOR_HOLDER, content_of


def _logs() -> list[Any]:
    """Yield each event of our contract, and the deployed contract's events with the same names."""
    return [
        event_log("NodeAccessGranted", 5, "web-1", OWNER, str(key(5))),
        event_log("NodeAccessGranted", 2**256 - 1, "a.b_c", OTHER, ""),
        event_log("NodeAccessRevoked", 5, "web-1"),
        event_log("NodeAccessTransferred", 5, OWNER, OTHER),
        event_log("NodeKeyUpdated", 5, str(key(6))),
        event_log("NodeEndpointUpdated", 5, REACH),
        event_log("NodeEndpointUpdated", 5, ""),
        event_log("NodeExpiryUpdated", 5, 1_900_000_000),
        event_log("NodeTagsUpdated", 5, 3),
        event_log("NodeRoutesUpdated", 5, [(4 << 248 | 10 << 32 | 8).to_bytes(32, "big")]),
        event_log("TagDefined", 0, "web"),
        event_log("PolicyUpdated", keccak(b"allow all")),
        event_log("MinterAdded", OWNER),
        event_log("PolicyAdministratorRemoved", OWNER),
        event_log("OwnershipTransferInitiated", OWNER, OTHER),
        event_log("OwnershipTransferred", OWNER, OTHER),
        event_log("Paused", OWNER),
        event_log("InvitationRedeemed", keccak(b"hash"), 5),
        event_log("InvitationCancelled", keccak(b"hash")),
        event_log("PublicKeyUpdated", OWNER, str(key(7))),
        event_log("Transfer", OWNER, OTHER, 5),
        event_log("Transfer", OWNER, "0x" + "0" * 40, 5),
    ]


def for_event() -> Iterable[bytes]:
    for log in _logs():
        topics = [bytes.fromhex(topic[2:]) for topic in log.topics[1:]]
        yield bytes([TOPICS.index(log.topics[0]), len(topics)]) + b"".join(topics) + log.data


def _notification(result: object) -> dict[str, object]:
    params = {"subscription": "0x9ce59a13059e417087c02d3236a0b1cc", "result": result}
    return {"jsonrpc": "2.0", "method": "eth_subscription", "params": params}


def _log_json(log: Any, **more: object) -> dict[str, object]:
    known = {"address": OTHER, "topics": log.topics, "data": "0x" + log.data.hex(), "blockNumber": "0x4d"}
    return known | {"blockHash": log.block_hash, "logIndex": "0x0", "removed": False} | more


HEAD: Final = {
    "number": "0x4d",
    "hash": "0x" + "7" * 64,
    "parentHash": "0x" + "6" * 64,
    "timestamp": "0x6b49d200",
    "miner": OTHER,
}


PROOF: Final = {
    "address": OTHER,
    "nonce": "0x1",
    "balance": "0x0",
    "codeHash": "0x" + "5" * 64,
    "storageHash": "0x" + "4" * 64,
    "accountProof": ["0xf851"],
    "storageProof": [],
}


def for_log() -> Iterable[bytes]:
    for log in _logs():
        yield _json(_notification(_log_json(log)))
    yield _json(_notification(HEAD))
    yield _json([_notification(_log_json(_logs()[0], removed=True)), _notification(HEAD)])
    yield _json([_notification(HEAD), {"jsonrpc": "2.0", "id": 7, "result": _log_json(_logs()[2])}])
    yield _json([_notification(HEAD), {"jsonrpc": "2.0", "id": 8, "result": PROOF}])


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def for_jsonrpc() -> Iterable[bytes]:
    reply: dict[str, object] = {"jsonrpc": "2.0", "id": 1}
    taken = bytes.fromhex(artifact()["errors"]["NodeIdTaken(string,uint256)"][2:])
    data = "0x" + (taken + encode(["string", "uint256"], ["web", 1])).hex()
    errors: list[object] = [
        {"code": 3, "message": "execution reverted", "data": data},
        {"code": -32005, "message": "query returned more than 10000 results"},
        {"code": -32000, "message": "header not found", "data": {"data": data}},
        {"code": -32603, "message": "Internal error", "data": "Reverted " + data},
        "rate limit exceeded",
    ]
    yield _json(reply | {"result": "0x2105"})
    yield _json(reply | {"result": [_log_json(log) for log in _logs()[:3]]})
    yield _json([reply | {"id": n, "result": HEAD} for n in range(3)])
    yield _json([reply | {"error": error} for error in errors])
    yield from (_json(reply | {"error": error}) for error in errors)
    yield _json(_notification(HEAD))
    yield b"<html><body>502 Bad Gateway</body></html>"


def _node_view(token: int = 5, **more: Any) -> tuple[Any, ...]:
    view = {"token": token, "owner": OWNER, "name": f"web-{token}", "key": str(key(token)), "endpoint": REACH}
    rest = {"uri": URI, "created": 1, "key_block": 42, "expires": 99, "active": True, "awaiting": False}
    rest |= {"tags": 5, "routes": [(4 << 248 | 10 << 32 | 8).to_bytes(32, "big")]}
    return tuple((view | rest | more).values())


def for_state() -> Iterable[bytes]:
    bare: dict[str, Any] = {"endpoint": "", "uri": PLAIN_URI, "expires": 0}
    for view in (_node_view(), _node_view(**bare), _node_view(key="", active=False, awaiting=True)):
        yield b"t" + encode([NODE_VIEW], [view])
    for count in (0, 1, 3):
        views = [_node_view(n, **bare) if n % 2 else _node_view(n) for n in range(count)]
        yield b"p" + encode([f"{NODE_VIEW}[]", "uint256"], [views, count])
    access = encode(["string", "string", "uint256", "bool"], ["web", str(key(5)), 1, True])
    for absent, uri in ((0, URI), (0, PLAIN_URI), (4, "")):
        replies = [access, encode(["address"], [OWNER]), encode(["string"], [uri])]
        yield b"d" + bytes([absent]) + b"".join(blob(r) for i, r in enumerate(replies) if not absent >> i & 1)
    own: tuple[tuple[str, Any], ...] = (
        ("string[]", ["web"]),
        ("bytes32", bytes(32)),
        ("address[]", [OWNER]),
        ("address[]", []),
    )
    rest: tuple[tuple[str, Any], ...] = (("address", OWNER), ("address", OTHER), ("bool", True))
    yield b"c\0" + b"".join(blob(encode([kind], [value])) for kind, value in (*own, *rest))
    yield b"y\0" + blob(keccak(b"allow all")) + blob(encode(["string"], ["allow all"]))


def for_multicall() -> Iterable[bytes]:
    access = encode(["string", "string", "uint256", "bool"], ["web", str(key(5)), 1, True])
    for results in ([], [(True, access)], [(True, access), (False, b""), (True, b"\1" * 32)] * 2):
        yield bytes([len(results)]) + encode(["(bool,bytes)[]"], [results])


def for_retry_after() -> Iterable[str]:
    yield "17\n"
    yield "Tue, 24 Nov 2026 12:00:30 GMT\nTue, 24 Nov 2026 12:00:00 GMT"
    yield "Tuesday, 24-Nov-26 12:00:30 +0130\n24 Nov 2026 12:00 -0000"


def for_revert() -> Iterable[bytes]:
    yield bytes.fromhex("08c379a0") + encode(["string"], ["not the owner"])
    yield bytes.fromhex("4e487b71") + encode(["uint256"], [0x11])
    values = {"string": "web\u202e", "address": OWNER, "bytes32": bytes(range(32))}
    for signature, selector in artifact()["errors"].items():
        kinds = signature.partition("(")[2].rstrip(")")
        types = kinds.split(",") if kinds else []
        yield bytes.fromhex(selector[2:]) + encode(types, [values.get(kind, 7) for kind in types])


def for_abi() -> Iterable[bytes]:
    for texts in ([], ["web"], ["a", "b" * 40, ""]):
        yield encode(["(string)[]"], [[(text,) for text in texts]])


def for_tags() -> Iterable[bytes]:
    for names in ([], ["web"], ["gateway", "a" * 63, "\x1b[2J", ""]):
        yield encode(["string[]"], [names])


def for_enrolment() -> Iterable[str]:
    head, holder, key = "node_id,holder,public_key", "0x" + "aa" * 20, "Ag" + "A" * 41 + "="
    yield f"{head}\nweb-1,{holder},{key}\n"
    rights = "vpn.example.org:51820,web gateway,10.0.0.0/8 fd00::/8,2030-01-01"
    yield f"{head},endpoint,tags,routes,expires\r\ndb,{holder},{key},{rights}\r\n"


def for_keystore() -> Iterable[str]:
    scrypt = {"n": 8192, "r": 8, "p": 1, "dklen": 32, "salt": "ab" * 32}
    crypto = {"kdf": "scrypt", "kdfparams": scrypt, "ciphertext": "cd" * 32, "mac": "ef" * 32}
    yield json.dumps({"version": 3, "crypto": crypto, "address": "aa" * 20})
    yield json.dumps({"Crypto": {"kdf": "pbkdf2", "kdfparams": {"c": 262144}}, "version": 3})


def for_invitation() -> Iterable[bytes]:
    yield from map(content_of, (CODE, FOR_HOLDER))


def for_invitation_code() -> Iterable[str]:
    yield from (code.encode() for code in (CODE, FOR_HOLDER))


def for_reach() -> Iterable[str]:
    yield from ("192.0.2.1:51820", "udp://[2001:db8::1]:51820", "vpn.example.org:1", REACH)
    yield f"tls://vpn.example.org:443?pin={PIN},{PIN},udp://n.example.org:1,tcp://n.example.org:443"


def for_token_uri() -> Iterable[str]:
    yield from (URI, PLAIN_URI, "https://example.org/5.json")
    yield "data:application/json;charset=utf-8," + json.dumps(
        {"image": [{}], "endpoint": "udp://a.example:1"}
    )
