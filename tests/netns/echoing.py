"""An HTTP proxy whose endpoints repeat the request in replies: ``python echoing.py PORT CHAIN``.

The first label of an endpoint's host name chooses the kind of reply. A kind that begins with
``late-`` passes all calls on to the chain, except one method.
"""

import asyncio
import base64
import hashlib
import html
import json
import re
import sys
from itertools import pairwise
from typing import Any
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HTTP = (
    *("html", "bracket", "reason", "message", "data", "nested", "text", "redirect", "header", "result"),
    *("late-eth_getLogs", "late-eth_call", "late-eth_sendRawTransaction", "late-eth_estimateGas"),
    *("revert-eth_call", "revert-eth_estimateGas", "late-eth_getTransactionCount"),
    *("result-eth_getTransactionReceipt", "result-eth_getLogs", "result-eth_getBlockByNumber"),
)
WS = (
    "frame",
    "message",
    "close",
    "redirect",
    "refused",
    "result",
    "late-eth_subscribe",
    "result-eth_subscribe",
)


def echo(head: str) -> str:
    """Return the request in all forms: unchanged, decoded, encoded, escaped, and in base64."""
    lines = [line for part in head.split("\r\n") for line in part.split(" ") if line]
    logins = [base64.b64decode(coded).decode() for basic, coded in pairwise(lines) if basic == "Basic"]
    words = [*logins, *(piece for login in logins for piece in login.split(":")), *lines]
    # Do not split at the slash within the secret of the query.
    urls = [line for line in lines if "/v2/" in line]
    words += [piece for line in urls for piece in re.split("[?=&]|/(?!qu3ry)", line)]
    plain = {form for word in words for form in (word, unquote(word))}
    coded = {form for word in plain for form in _forms(word)}
    # The planted secrets are at the beginning, so that an excerpt has them.
    planted = {form for form in coded | plain if form.startswith(("pl4nt", "cGw0"))}
    return " ".join([*sorted(planted), *sorted(coded | plain, key=len)])


def _forms(word: str) -> set[str]:
    raw = word.encode()
    coded = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
    escaped = html.escape(word), json.dumps(word)[1:-1], word.replace("/", "\\/")
    return {*coded, *escaped, quote(word, safe=""), quote(word)}


def ascii_line(text: str, limit: int) -> str:
    return "".join(c for c in text if " " <= c <= "~")[:limit]


def reply(kind: str, call: dict[str, Any], said: str, chain: str) -> dict[str, Any]:
    """Return a JSON-RPC reply of a kind."""
    which, _, method = kind.partition("-")
    if method and call["method"] != method:
        return forwarded(call, chain)
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": call["id"]}
    if which == "result":
        block = {"number": said, "hash": said, "parentHash": said, "timestamp": said}
        return answer | {"result": block if "Block" in method else said}
    if which == "revert":
        text = said.encode()[:3000]
        data = bytes.fromhex("08c379a0") + (32).to_bytes(32, "big") + len(text).to_bytes(32, "big")
        data += text + bytes(-len(text) % 32)
        return answer | {"error": {"code": 3, "message": f"reverted: {said}", "data": "0x" + data.hex()}}
    errors: dict[str, Any] = {
        "data": {"code": -32000, "message": "no", "data": said},
        "nested": {"code": -32000, "message": "no", "data": {"message": said}},
        "text": said,
    }
    return answer | {"error": errors.get(which, {"code": -32099, "message": said})}


def forwarded(call: dict[str, Any], chain: str) -> dict[str, Any]:
    request = Request(chain, json.dumps(call).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=5) as answer:
        document: dict[str, Any] = json.load(answer)
    return document


def over_http(kind: str, head: str, body: bytes, chain: str) -> bytes:
    said = echo(head + body.decode())
    status, more, content = "200 OK", "", ""
    match kind:
        case "html":
            status, content = "403 Forbidden", f"<html>{said}</html>"
        case "bracket":
            status, content = "502 Bad Gateway", f"[oops {said}"
        case "reason":
            status = f"401 {ascii_line(said, 2000)}"
        case "redirect":
            status, more = "302 Found", f"Location: http://else.example.org/{quote(said)[:6000]}\r\n"
        case "header":
            status = "429 Too Many Requests"
            more = f"Retry-After: {ascii_line(said, 6000)}\r\nX-Said: {ascii_line(said, 6000)}\r\n"
        case _:
            calls = json.loads(body)
            batch = calls if isinstance(calls, list) else [calls]
            replies = [reply(kind, call, said, chain) for call in batch]
            content = json.dumps(replies if isinstance(calls, list) else replies[0])
    head = f"HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: {len(content.encode())}\r\n\r\n"
    return head.encode("latin-1") + content.encode()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chain: str) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in head.split("\r\n"))
        }
        kind = head.split("//", 1)[1].partition(".")[0].rpartition("@")[2].replace("-eth-", "-eth_")
        kind = next((known for known in (*HTTP, *WS) if known.lower() == kind), kind)
        if fields.get("upgrade", "").lower() == "websocket":
            await over_websocket(kind, head, fields["sec-websocket-key"], reader, writer, chain)
        else:
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            writer.write(await asyncio.to_thread(over_http, kind, head, body, chain))
        await writer.drain()
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


def frame(code: int, data: bytes) -> bytes:
    size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
    return bytes([0x80 | code]) + size + data


async def over_websocket(
    kind: str, head: str, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chain: str
) -> None:
    said = echo(head)
    if kind in {"redirect", "refused"}:
        writer.write(over_http({"refused": "html"}.get(kind, kind), head, b"", chain))
        return
    accept = base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()
    writer.write(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    if kind == "frame":
        writer.write(frame(1, said.encode()[:60_000]))
        return
    while True:
        begin = await reader.readexactly(2)
        first = begin[1] & 0x7F
        size = int.from_bytes(await reader.readexactly(2), "big") if first == 126 else first
        mask = await reader.readexactly(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(size)))
        if begin[0] & 0xF != 1:
            return
        if kind == "close":
            secret = next(word for word in said.split() if "pl4nted" in word)
            writer.write(frame(8, (1008).to_bytes(2, "big") + secret.encode()[:120]))
            return
        answer = await asyncio.to_thread(reply, kind, json.loads(data), said[:8000], chain)
        writer.write(frame(1, json.dumps(answer).encode()[:65_000]))


async def main(port: int, chain: str) -> None:
    server = await asyncio.start_server(lambda r, w: serve(r, w, chain), "127.0.0.1", port, limit=2**22)
    async with server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
