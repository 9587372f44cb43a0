"""The fake chain's JSON-RPC server: HTTP and WebSocket on one port of the loopback interface."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from eth_abi.abi import decode, encode
from tests.fake_chain import registry
from tests.fake_chain.chain import PENDING_LOGS, Block, FakeChain
from tests.fake_chain.code import run
from tests.fake_chain.faults import Fault, Faults
from tests.fake_chain.registry import Contract, Emitted, RevertError, Token, Transaction
from tests.ports import free_port

from dstack_vpn.adapters.chain.multicall import MULTICALL3
from dstack_vpn.adapters.contracts import signatures


class RpcError(Exception):
    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, **({"data": data} if data is not None else {})}


class _MisbehaveError(Exception):
    """A fault that affects the connection."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault


EMPTY_ROOT: Final = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
"""The storage hash of an account without storage."""
_HOSTS: Final = (f"127.0.{number // 250 % 250}.{number % 250 + 2}" for number in itertools.count())
"""Each server has another address, because a quorum counts the ports of one host once."""


@dataclass
class FakeServer:
    """A server; `serve` runs one."""

    chain: FakeChain
    faults: Faults = field(default_factory=Faults)
    pending_logs: str | None = None
    """The name of the subscription to logs of pre-confirmed blocks; None: there is none."""
    port: int = field(default_factory=free_port)
    """Of its own: it listens there again after an outage."""
    host: str = field(default_factory=lambda: next(_HOSTS))
    _subscriptions: dict[str, tuple[str, dict[str, Any], web.WebSocketResponse]] = field(default_factory=dict)
    _sockets: dict[web.WebSocketResponse, asyncio.Transport] = field(default_factory=dict)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _runner: web.AppRunner | None = None

    @property
    def http(self) -> str:
        return f"http://{self.reached_at}:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://{self.reached_at}:{self.port}"

    @property
    def reached_at(self) -> str:
        """Return the address in the server's URLs."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host

    @property
    def address(self) -> tuple[str, int]:
        """Return the server's address and port on this machine."""
        return self.reached_at, self.port

    @property
    def connections(self) -> int:
        """Return the number of open WebSockets."""
        return len(self._sockets)

    # -- for tests ---------------------------------------------------------------------------------

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.chain.announce = self._announce

    async def stop(self) -> None:
        await self.drop_sockets()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def drop_sockets(self) -> None:
        """Cut all WebSockets without a closing handshake."""
        for socket, transport in list(self._sockets.items()):
            self._forget(socket)
            transport.abort()

    def freeze_sockets(self) -> None:
        """Stop reading from all WebSockets, and keep them open."""
        for transport in self._sockets.values():
            transport.pause_reading()

    async def flood(self, count: int) -> None:
        """Announce the same head ``count`` times."""
        for _ in range(count):
            await self._announce("newHeads", [self.chain.head.header()])

    async def push(self, kind: str, result: Any) -> None:
        """Send any result to the subscribers of this kind."""
        for subscription, (name, _, socket) in list(self._subscriptions.items()):
            if name == kind:
                await self._notify(socket, subscription, result)

    async def forge(self, *transactions: Transaction, logs: bool = True, state: bool = True) -> None:
        """Add forged transactions to the latest block, which keeps its true hash."""
        block, lies = self.chain.head, self.faults.lies
        before, emitted = lies.state, list[Emitted]()
        tokens = before(block.tokens, block.number)
        for transaction in transactions:
            tokens, events = transaction(tokens, block.number, block.timestamp)
            emitted += events

        def forged(honest: Mapping[int, Token], number: int) -> Mapping[int, Token]:
            shown = before(honest, number)
            for transaction in transactions if number >= block.number else ():
                with suppress(RevertError):
                    shown, _ = transaction(shown, number, block.timestamp)
            return shown

        own = lies.contract

        def contract(honest: Contract) -> Contract:
            shown = own(honest)
            for event in emitted:
                shown = event.effect(shown)
            return shown

        if state:
            lies.state, lies.contract = forged, contract
        if logs:
            made = [self.chain._log(x, 1000 + i, block.number, block.hash) for i, x in enumerate(emitted)]
            lies.logs.setdefault(block.hash, []).extend(made)
            await self._announce("logs", made)

    # -- connections -------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request)
        try:
            return web.Response(
                text=await self._text(await request.text(), None), content_type="application/json"
            )
        except _MisbehaveError as error:
            fault = error.fault
            if fault.drop and request.transport is not None:
                request.transport.close()
            return web.Response(
                status=fault.status or 200,
                headers=fault.headers,
                text=fault.body or "",
                content_type="text/html",
            )

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.take("handshake")
        if fault is not None:
            return web.Response(status=fault.status or 503, headers=fault.headers)
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        assert isinstance(request.transport, asyncio.Transport)
        self._sockets[socket] = request.transport
        try:
            async with asyncio.TaskGroup() as group:
                replies = [group.create_task(self._reply(socket, m.data)) async for m in socket]
                for reply in replies:
                    reply.cancel()  # stalled replies would never end the connection's handler
        finally:
            self._forget(socket)
        return socket

    async def _reply(self, socket: web.WebSocketResponse, text: str) -> None:
        try:
            answer = await self._text(text, socket)
        except _MisbehaveError as error:
            if error.fault.body is None:
                await socket.close()
                return
            answer = error.fault.body
        with suppress(ConnectionError):
            await socket.send_str(answer)

    def _forget(self, socket: web.WebSocketResponse) -> None:
        self._sockets.pop(socket, None)
        self._subscriptions = {k: v for k, v in self._subscriptions.items() if v[2] is not socket}

    async def _announce(self, kind: str, items: Sequence[dict[str, Any]]) -> None:
        if (kind == "newHeads" and self.faults.silent) or (kind == "logs" and self.faults.mute_logs):
            return
        if kind == PENDING_LOGS and self.pending_logs is not None:
            kind = self.pending_logs
        lies = self.faults.lies
        if kind == "logs":
            items = [item for item in items if not lies.hides(item)]
        if lies.stuck_at is not None:
            number = "number" if kind == "newHeads" else "blockNumber"
            items = [item for item in items if int(item[number], 16) <= lies.stuck_at]
        for subscription, (name, query, socket) in list(self._subscriptions.items()):
            for item in items:
                if name == kind and (kind == "newHeads" or _matches(item, query)):
                    await self._notify(socket, subscription, item)

    async def _notify(self, socket: web.WebSocketResponse, subscription: str, result: Any) -> None:
        params = {"subscription": subscription, "result": result}
        with suppress(ConnectionError):
            await socket.send_str(
                json.dumps({"jsonrpc": "2.0", "method": "eth_subscription", "params": params})
            )

    # -- JSON-RPC ----------------------------------------------------------------------------------

    async def _text(self, text: str, socket: web.WebSocketResponse | None) -> str:
        document = json.loads(text)
        if not isinstance(document, list):
            return json.dumps(await self._one(document, socket))
        if self.faults.no_batches:
            error = {"code": -32600, "message": "batch requests are not supported"}
            return json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
        if (fault := self.faults.batches) is not None:
            if fault.error is None:
                raise _MisbehaveError(fault)
            return json.dumps([{"jsonrpc": "2.0", "id": x["id"], "error": fault.error} for x in document])
        # The specification allows replies out of order.
        return json.dumps([await self._one(each, socket) for each in reversed(document)])

    async def _one(self, call: dict[str, Any], socket: web.WebSocketResponse | None) -> dict[str, Any]:
        method = call["method"]
        self.faults.calls[method] += 1
        head = {"jsonrpc": "2.0", "id": call["id"]}
        fault = self.faults.take(method)
        if fault is not None:
            return {**head, **await self._faulty(fault)}
        try:
            return {**head, "result": self._result(method, list(call.get("params", [])), socket)}
        except RevertError:
            return {**head, "error": {"code": 3, "message": "execution reverted", "data": "0x"}}
        except _MisbehaveError as error:
            return {**head, **await self._faulty(error.fault)}
        except RpcError as error:
            return {**head, "error": error.error}

    async def _faulty(self, fault: Fault) -> dict[str, Any]:
        if fault.stall:
            self.faults.stalled.set()
            await asyncio.Event().wait()
        if fault.status is not None or fault.body is not None:
            raise _MisbehaveError(fault)
        return {"result": fault.result} if fault.error is None else {"error": fault.error}

    def _result(self, method: str, params: list[Any], socket: web.WebSocketResponse | None) -> Any:
        match method:
            case "eth_chainId":
                return hex(self.chain.chain_id)
            case "eth_getBlockByNumber":
                if params[0] == "0x0" and self.faults.genesis is not ...:
                    if isinstance(self.faults.genesis, Fault):
                        raise _MisbehaveError(self.faults.genesis)
                    return self.faults.genesis
                block = self._block(params[0])
                return block and block.header()
            case "eth_getBlockByHash":
                found = self.chain.by_hash(params[0])
                return found and found.header()
            case "eth_getCode":
                return self._code(params)
            case "eth_getLogs":
                return self._logs(params[0])
            case "eth_getProof":
                return self._proof(*params)
            case "eth_call":
                return "0x" + self._call(params).hex()
            case "eth_subscribe" if socket is not None:
                if params[0] not in ("logs", "newHeads", self.pending_logs):
                    raise RpcError(-32601, f'no "{params[0]}" subscription in eth namespace')
                subscription = hex(next(self._ids))
                self._subscriptions[subscription] = (params[0], params[1] if len(params) > 1 else {}, socket)
                return subscription
        raise RpcError(-32601, "Method not found")

    def _block(self, which: Any) -> Block | None:
        stuck = self.faults.lies.stuck_at
        blocks = self.chain.blocks if stuck is None else self.chain.blocks[: stuck + 1]
        if isinstance(which, dict):
            return next((block for block in blocks if block.hash == which["blockHash"]), None)
        if which == "finalized":
            if self.faults.no_finalized:
                raise RpcError(-32602, "unknown block tag finalized")
            return blocks[max(0, len(blocks) - 1 - self.chain.finality)]
        number = len(blocks) - 1 if which == "latest" else int(which, 16)
        return blocks[number] if number < len(blocks) else None

    def _state(self, which: Any) -> Block:
        block = self._block(which)
        if block is None:
            raise RpcError(-32001, "Resource not found")
        if block.number < self.faults.pruned_before:
            raise RpcError(-32000, "missing trie node")
        return block

    def _code(self, params: list[Any]) -> str:
        if params[0].lower() == MULTICALL3:
            return "0x6001" if self.chain.multicall else "0x"
        return self.chain.code_at(params[0], self._state(params[1]))

    def _proof(self, address: str, slots: list[str], which: Any) -> dict[str, Any]:
        """Return an account without the proof itself."""
        block, lies = self._state(which), self.faults.lies
        tokens = lies.state(block.tokens, block.number) if lies.revision_of is None else lies.revision_of
        exists = self.chain.code_at(address, block) != "0x"
        root = registry.storage_root(tokens, lies.contract(block.contract)) if exists else EMPTY_ROOT
        assert slots == []
        return {
            "address": address,
            "nonce": hex(exists),
            "balance": "0x0",
            "codeHash": "0x" + "12" * 32,
            "storageHash": root,
            "accountProof": [],
            "storageProof": [],
        }

    def _logs(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        if "blockHash" in query:
            block = self.chain.by_hash(query["blockHash"])
            if block is None:
                raise RpcError(-32000, "unknown block")
            blocks = [block]
        else:
            first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
            if self.faults.most_blocks is not None and last - first + 1 > self.faults.most_blocks:
                if self.faults.range_fault is not None:
                    raise _MisbehaveError(self.faults.range_fault)
                raise RpcError(-32614, f"eth_getLogs is limited to a {self.faults.most_blocks} range")
            past = last > self.chain.head.number
            blocks = [] if past and self.faults.lies_past_head else self.chain.blocks[first : last + 1]
        return [log for block in blocks for log in self._logs_of(block) if _matches(log, query)]

    def _logs_of(self, block: Block) -> list[dict[str, Any]]:
        lies = self.faults.lies
        return [x for x in block.logs if not lies.hides(x)] + lies.logs.get(block.hash, [])

    def _call(self, params: list[Any]) -> bytes:
        block, calldata = self._state(params[1]), bytes.fromhex(params[0]["data"][2:])
        if "to" not in params[0]:
            if self.faults.no_code:
                raise RpcError(-32602, "missing field: to")
            blocks = self.chain.blocks
            return run(
                *(calldata, block.number, block.timestamp),
                lambda number: blocks[number].hash,
                lambda inner: self._answer(block, inner),
            )
        if params[0]["to"].lower() != MULTICALL3:
            return self._answer(block, calldata)
        (calls,) = decode(["(address,bool,bytes)[]"], calldata[4:])
        results = []
        for _, _, inner in calls:
            try:
                results.append((True, self._answer(block, inner)))
            except RevertError:
                results.append((False, b""))
        return bytes(encode(["(bool,bytes)[]"], [results]))

    def _answer(self, block: Block, calldata: bytes) -> bytes:
        limit = int.from_bytes(calldata[36:68], "big")
        most = self.faults.most_nodes
        if most is not None and calldata[:4] == signatures.GET_NODES and limit > most:
            raise RpcError(-32000, "out of gas: gas required exceeds: 50000000")
        lies = self.faults.lies
        contract = lies.contract(block.contract)
        if lies.revision_of is not None and calldata[:4] == signatures.REVISION:
            return registry.answer(lies.revision_of, contract, calldata)
        return registry.answer(lies.state(block.tokens, block.number), contract, calldata)


def _matches(log: dict[str, Any], query: dict[str, Any]) -> bool:
    topics = query.get("topics", [])
    return log["address"] == query["address"] and (not topics or log["topics"][0] in topics[0])


@asynccontextmanager
async def serve(chain: FakeChain | None = None, host: str | None = None) -> AsyncIterator[FakeServer]:
    """Serve a chain during the context, on a separate loopback address."""
    server = FakeServer(chain or FakeChain(), host=host or next(_HOSTS))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
