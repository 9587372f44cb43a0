"""A node on texts beyond the gas limit of a block, and on logs that no honest contract emits."""

import base64
import json
from typing import Any

import pytest
from eth_abi.abi import encode
from tests.anvil import key_of
from tests.fake_chain import FakeServer, registry
from tests.fake_chain.registry import Emitted
from tests.integration.conftest import MakeRig
from tests.integration.hostile import check_line, lines_about, unharmed
from tests.integration.support import Peers, eventually
from tests.integration.views import addresses

from dstack_vpn.adapters.contracts import signatures

GOOD = str(key_of(50))
LONG = 1_000_000

HUGE = {
    "key of a megabyte": ("web", "A" * LONG, "malformed key", f"key: {LONG} bytes, of at most 44"),
    "name of a megabyte": ("a" * LONG, GOOD, "malformed node id", f"node id: {LONG} bytes, of at most 63"),
}


@pytest.fixture
async def honest(fake_chain: FakeServer) -> FakeServer:
    """Return a chain with two honest nodes."""
    await fake_chain.chain.mint(1)
    await fake_chain.chain.mint(2)
    return fake_chain


def two(server: FakeServer) -> Peers:
    contract = server.chain.contract
    return {str(key_of(n)): (addresses(contract, n), None) for n in (1, 2)}


@pytest.mark.parametrize("scheme", ["ws", "http"])
@pytest.mark.parametrize(("node_id", "key", "reason", "problem"), HUGE.values(), ids=HUGE)
async def test_texts_of_a_megabyte(
    honest: FakeServer,
    scheme: str,
    node_id: str,
    key: str,
    reason: str,
    problem: str,
    make_rig: MakeRig,
    log_lines: list[Any],
) -> None:
    chain = honest.chain
    async with make_rig(getattr(honest, scheme), chain.contract).running() as rig:
        await rig.settle(two(honest), "two honest nodes")
        log_lines.clear()
        await chain.mine(registry.mint(chain.accounts[1], node_id, key))
        await eventually(lambda: rig.decide(3).reason == reason, "the decision")
        await unharmed(rig, two(honest))
        (line,) = lines_about(log_lines, rig)
        check_line(line, 3, problem)


def uri(endpoint: str, padding: int = 0) -> str:
    document = json.dumps({"endpoint": endpoint, "image": "x" * padding}).encode()
    return "data:application/json;base64," + base64.b64encode(document).decode()


URIS = {
    "5 MB": (uri("192.0.2.1:51820", 5_000_000), "of at most 65536"),
    "a URL": (uri("http://192.0.2.1:51820/"), "token URI: endpoint: "),
    "loopback": (uri("127.0.0.1:51820"), "token URI: endpoint: a loopback"),
}


@pytest.mark.parametrize("scheme", ["ws", "http"])
@pytest.mark.parametrize(("text", "problem"), URIS.values(), ids=URIS)
async def test_token_uris(
    honest: FakeServer, scheme: str, text: str, problem: str, make_rig: MakeRig, log_lines: list[Any]
) -> None:
    """A token with a hostile URI and a valid key is a peer, without an endpoint."""
    chain = honest.chain
    async with make_rig(getattr(honest, scheme), chain.contract).running() as rig:
        await rig.settle(two(honest), "two honest nodes")
        log_lines.clear()
        await chain.mint(3, uri=text)
        want = {**two(honest), str(key_of(3)): (addresses(chain.contract, 3), None)}
        await eventually(lambda: lines_about(log_lines, rig), "the log")
        await unharmed(rig, want)
        assert rig.peers[str(key_of(3))][1] is None
        (line,) = lines_about(log_lines, rig)
        check_line(line, 3, problem)


ENDPOINTS = {
    "a URL": "https://vpn.example.org:51820",
    "a URL with a password": "http://user:pass@192.0.2.1:51820",
    "loopback": "127.0.0.1:51820",
    "loopback in IPv6": "[::1]:51820",
    "loopback in disguise": "127.1:51820",
    "loopback in IPv6's disguise": "[::ffff:127.0.0.1]:51820",
    "localhost": "localhost:51820",
    "everywhere": "0.0.0.0:51820",
    "multicast": "224.0.0.1:51820",
    "no host": ":51820",
    "no port": "192.0.2.1",
    "port 0": "192.0.2.1:0",
    "port 65536": "192.0.2.1:65536",
    "a space": " ",
    "two lines": "192.0.2.1:51820\nPostUp = reboot",
    "shell text": "$(reboot):51820",
    "a megabyte": "a" * LONG + ":51820",
}


async def test_endpoints(honest: FakeServer, make_rig: MakeRig, log_lines: list[Any]) -> None:
    """A hostile endpoint changes nothing: the peer keeps its previous endpoint."""
    chain = honest.chain
    async with make_rig(honest.ws, chain.contract).running() as rig:
        await chain.mine(registry.set_endpoint(1, "192.0.2.9:51820"))
        before = {**two(honest), str(key_of(1)): (addresses(chain.contract, 1), "192.0.2.9:51820")}
        await rig.settle(before, "two honest nodes")
        for name, text in ENDPOINTS.items():
            log_lines.clear()
            await chain.mine(registry.set_endpoint(1, text))
            await eventually(lambda: lines_about(log_lines, rig), f"{name}: the log")
            await unharmed(rig, before)
            (line,) = lines_about(log_lines, rig)
            check_line(line, 1, "endpoint: ")
            assert rig.decide(1).granted
            await chain.mine(registry.set_endpoint(1, "192.0.2.9:51820"))
            await eventually(lambda: rig.tip == chain.head.number, "the next block")


async def test_an_endpoint_that_is_cleared_is_nothing_to_tell(
    honest: FakeServer, make_rig: MakeRig, log_lines: list[Any]
) -> None:
    async with make_rig(honest.ws, honest.chain.contract).running() as rig:
        await rig.settle(two(honest), "two honest nodes")
        log_lines.clear()
        await honest.chain.mine(registry.set_endpoint(1, ""))
        await eventually(lambda: rig.tip == honest.chain.head.number, "the block")
        await unharmed(rig, two(honest))
        assert lines_about(log_lines, rig) == []


# -- logs that no honest contract emits ------------------------------------------------------------


def word(number: int) -> str:
    return f"0x{number:064x}"


def text(raw: bytes) -> bytes:
    return bytes(encode(["bytes"], [raw]))


LOGS = {
    "an endpoint that is no UTF-8": (
        Emitted((signatures.NODE_ENDPOINT_UPDATED, word(1)), text(b"\xff\xfe:51820")),
        "token.refused",
    ),
    "data that ends too early": (
        Emitted((signatures.NODE_KEY_UPDATED, word(1)), text(GOOD.encode())[:-32]),
        "chain.log_refused",
    ),
    "an offset beyond the data": (
        Emitted((signatures.NODE_KEY_UPDATED, word(1)), b"\xff" * 64),
        "chain.log_refused",
    ),
    "no data": (Emitted((signatures.NODE_KEY_UPDATED, word(1))), "chain.log_refused"),
    "a topic too few": (Emitted((signatures.NODE_ACCESS_REVOKED,), text(b"web")), "chain.log_refused"),
    "a recipient that is no address": (
        Emitted((signatures.TRANSFER, word(1), "0x" + "ff" * 32, word(1))),
        "chain.log_refused",
    ),
    "an expiry of 65 bits": (
        Emitted((signatures.NODE_EXPIRY_UPDATED, word(1)), (1 << 64).to_bytes(32, "big")),
        "chain.log_refused",
    ),
}


@pytest.mark.parametrize("scheme", ["ws", "http"])
@pytest.mark.parametrize(("log", "event"), LOGS.values(), ids=LOGS)
async def test_logs_that_make_no_sense(
    honest: FakeServer, scheme: str, log: Emitted, event: str, make_rig: MakeRig, log_lines: list[Any]
) -> None:
    chain = honest.chain
    async with make_rig(getattr(honest, scheme), chain.contract).running() as rig:
        await rig.settle(two(honest), "two honest nodes")
        log_lines.clear()
        await chain.mine(registry.emit(log))
        await eventually(lambda: rig.tip == chain.head.number and lines_about(log_lines, rig), "the log")
        await unharmed(rig, two(honest))
        assert [line["event"] for line in lines_about(log_lines, rig)] == [event]
        await chain.mine(registry.revoke(2))
        await eventually(lambda: rig.keys == {key_of(1)}, "a revocation after the log")


async def test_logs_of_another_contract(honest: FakeServer, make_rig: MakeRig, log_lines: list[Any]) -> None:
    """The node logs one line about an endpoint that sends other contracts' logs repeatedly."""
    chain = honest.chain
    revoked = Emitted((signatures.NODE_ACCESS_REVOKED, word(1)), text(b"node-1"))
    async with make_rig(honest.ws, chain.contract).running() as rig:
        await rig.settle(two(honest), "two honest nodes")
        log_lines.clear()
        for index in range(3):
            log = chain._log(revoked, index, chain.head.number + 1, "0x" + "77" * 32)
            await honest.push("logs", {**log, "address": "0x" + "99" * 20})
        await chain.mine()
        await eventually(lambda: rig.tip == chain.head.number and lines_about(log_lines, rig), "the log")
        await unharmed(rig, two(honest))
        assert [line["event"] for line in lines_about(log_lines, rig)] == ["chain.foreign_logs"]
