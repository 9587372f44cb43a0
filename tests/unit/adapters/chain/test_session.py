"""Faulty endpoints over real sockets. Each fault becomes a ChainError."""

import asyncio
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs
from tests.fake_chain import FakeServer, Fault, registry
from tests.fake_chain.server import EMPTY_ROOT
from tests.unit.adapters.chain.connecting import DEADLINE, SECRET, connected, pool_of

from dstack_vpn.adapters.chain import RpcSession
from dstack_vpn.adapters.contracts.access_registry import AccessRegistry
from dstack_vpn.errors import ChainError, EndpointError, RangeError, RetryError, WrongChainError


async def failing(server: FakeServer, scheme: str, fault: Fault) -> ChainError:
    """Return the error that `head` raises."""
    with pytest.raises(ChainError) as caught:
        async with connected(server, scheme) as session, asyncio.timeout(DEADLINE):
            server.faults.by_method["eth_getBlockByNumber"] = fault
            await session.head()
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 300
    return caught.value


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(result=None), EndpointError),
        (Fault(result=[]), EndpointError),
        (Fault(result={"number": "0x1"}), EndpointError),
        (Fault(body="<html>" + "x" * 10_000), EndpointError),
        (Fault(body='{"jsonrpc":"2.0","id":'), EndpointError),
        (Fault(body='{"jsonrpc":"2.0","id":"seven","result":1}'), EndpointError),
        (Fault(error={"code": -32601, "message": f"unknown key {SECRET}"}), EndpointError),
        (Fault(error={"code": -32005, "message": "limit exceeded"}), RetryError),
    ],
)
async def test_nonsense_is_named_and_ends_the_session(
    fake_chain: FakeServer, scheme: str, fault: Fault, kind: type[ChainError]
) -> None:
    assert isinstance(await failing(fake_chain, scheme, fault), kind)


async def test_a_busy_endpoint_is_asked_again(fake_chain: FakeServer, scheme: str) -> None:
    async with connected(fake_chain, scheme) as session:
        error = {"code": -32016, "message": "over rate limit"}
        fake_chain.faults.by_method["eth_getBlockByNumber"] = Fault(error=error, times=2)
        assert (await session.head()).hash == fake_chain.chain.head.hash


async def test_a_stalled_call_meets_its_deadline(
    fake_chain: FakeServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(fake_chain, scheme) as session:
        fake_chain.faults.by_method["eth_getLogs"] = Fault(stall=True)
        monkeypatch.setattr("dstack_vpn.adapters.chain.ranges.DEADLINE", 0.2)
        monkeypatch.setattr("dstack_vpn.adapters.chain.ranges.RANGE_DEADLINE", 0.2)
        with pytest.raises(EndpointError, match="in time"):
            async with asyncio.timeout(DEADLINE):
                await session.events(0, 1)


async def test_a_wrong_chain_id_says_what_to_check(fake_chain: FakeServer, scheme: str) -> None:
    with pytest.raises(WrongChainError, match=r"serves chain 31337, but chain 8453 is configured.*CHAIN_ID"):
        async with connected(fake_chain, scheme, chain_id=8453):
            pass


async def test_a_wiped_chain_is_no_empty_registry(fake_chain: FakeServer, scheme: str) -> None:
    pool = pool_of(fake_chain, scheme)
    async with pool.session():
        pass
    await fake_chain.chain.wipe()
    with pytest.raises(WrongChainError, match="wiped or replaced"):
        async with pool.session():
            pass


async def test_a_chain_without_the_contract_is_the_wrong_one(fake_chain: FakeServer, scheme: str) -> None:
    fake_chain.faults.by_method["eth_getCode"] = Fault(result="0x")
    with pytest.raises(WrongChainError, match="no contract at 0x5fbdb"):
        async with connected(fake_chain, scheme):
            pass


async def test_nobody_listens(fake_chain: FakeServer, scheme: str) -> None:
    await fake_chain.stop()
    with pytest.raises(EndpointError, match="can't be reached"):
        async with connected(fake_chain, scheme):
            pass


async def test_no_credentials_are_logged(fake_chain: FakeServer, scheme: str) -> None:
    with capture_logs() as lines, pytest.raises(ChainError):
        async with connected(fake_chain, scheme) as session:
            fake_chain.faults.by_method["*"] = Fault(error={"code": 1, "message": f"bad key {SECRET}"})
            await session.head()
    assert {line["event"] for line in lines} == {"rpc.connected", "rpc.endpoint_left"}
    assert SECRET not in str(lines)


async def test_an_answer_that_is_too_big_asks_for_less(
    fake_chain: FakeServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        f"dstack_vpn.adapters.chain.{'websocket' if scheme == 'ws' else 'http'}.MAX_MESSAGE", 2000
    )
    with pytest.raises(RangeError, match="exceeds"):
        async with connected(fake_chain, scheme) as session:
            fake_chain.faults.by_method["eth_getBlockByNumber"] = Fault(result="0x" + "00" * 4000)
            await session.head()


async def test_the_bodys_own_error_leaves_unwrapped(fake_chain: FakeServer, scheme: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with connected(fake_chain, scheme):
            raise ZeroDivisionError


async def test_a_session_can_be_cancelled(fake_chain: FakeServer, scheme: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), connected(fake_chain, scheme):
            await asyncio.Event().wait()


async def test_a_reverted_revision_is_unknown(
    fake_chain: FakeServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(fake_chain, scheme) as session:
        head = await session.head()
        assert await session.revision(head) is not None
        monkeypatch.setattr(registry, "_revision", _reverting)
        assert await session.revision(head) is None
        assert await session.read_all(head) == []


def _reverting(tokens: registry.Tokens, contract: registry.Contract) -> int:
    raise registry.RevertError


async def test_a_malformed_revision_ends_the_session(fake_chain: FakeServer, scheme: str) -> None:
    async with connected(fake_chain, scheme) as session:
        head = await session.head()
        fake_chain.faults.by_method["eth_call"] = Fault(result="0x" + "ff" * 32)
        with pytest.raises(EndpointError, match="invalid revision"):
            await session.revision(head)


# -- storage roots ---------------------------------------------------------------------------------

ROOT = "0x" + "ab" * 32
HOUR, FIVE_MINUTES = 3600.0, 300.0


@dataclass
class Time:
    """A clock that a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the contract one without a revision."""
    monkeypatch.setattr(AccessRegistry, "revision_call", None)


async def root(session: RpcSession) -> object:
    return await session.revision(await session.head())


@pytest.mark.usefixtures("uncounted")
async def test_a_storage_root_costs_one_call(fake_chain: FakeServer, scheme: str) -> None:
    async with connected(fake_chain, scheme) as session:
        head = await session.head()
        fake_chain.faults.calls.clear()
        fake_chain.faults.by_method["eth_getProof"] = Fault(
            result={"storageHash": ROOT.upper().replace("X", "x")}
        )
        assert await session.revision(head) == ROOT
        assert fake_chain.faults.calls == {"eth_getProof": 1}


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (Fault(error={"code": -32601, "message": "the method eth_getProof does not exist"}), HOUR),
        # reth 1.x
        (
            Fault(error={"code": -32602, "message": "distance to target block exceeds maximum proof window"}),
            HOUR,
        ),
        # geth before EIP-1898
        (
            Fault(
                error={
                    "code": -32602,
                    "message": "cannot unmarshal object into Go value of type string",
                }
            ),
            HOUR,
        ),
        (Fault(result={"storageHash": EMPTY_ROOT}), HOUR),
        (Fault(result={"storageHash": "0x" + "0" * 64}), HOUR),
        (Fault(error={"code": -32000, "message": "missing trie node"}), FIVE_MINUTES),
        (Fault(error={"code": 3, "message": "execution reverted"}), FIVE_MINUTES),
        (Fault(error={"code": -32000, "message": "response too large"}), FIVE_MINUTES),
        (Fault(result=None), FIVE_MINUTES),
        (Fault(result={"storageHash": "0x12"}), FIVE_MINUTES),
    ],
    ids=lambda x: str(x.error or x.result) if isinstance(x, Fault) else "",
)
@pytest.mark.usefixtures("uncounted")
async def test_an_endpoint_without_proofs_is_not_asked_again_for_a_while(
    fake_chain: FakeServer, scheme: str, fault: Fault, seconds: float
) -> None:
    time, faults = Time(), fake_chain.faults
    pool = pool_of(fake_chain, scheme, monotonic=time)
    for later in (0.0, seconds - 1.0):
        time.now = 1000.0 + later
        async with pool.session() as session:
            assert isinstance(session, RpcSession)
            faults.by_method["eth_getProof"] = fault
            assert await root(session) is None
            assert await session.read_all(await session.head()) == [], "the session goes on"
            assert faults.calls["eth_getProof"] == 1, "the next session knows it"
            del faults.by_method["eth_getProof"]
    async with pool.session() as session:
        assert isinstance(session, RpcSession)
        time.now = 1000.0 + seconds
        assert await root(session) is not None


@pytest.mark.usefixtures("uncounted")
async def test_an_endpoint_that_is_always_too_busy_for_proofs_is_usable(
    fake_chain: FakeServer, scheme: str
) -> None:
    fake_chain.faults.by_method["eth_getProof"] = Fault(error={"code": -32603, "message": "internal error"})
    async with connected(fake_chain, scheme, draw=lambda: 0.0) as session:
        assert [await root(session) for _ in range(3)] == [None] * 3
        assert fake_chain.faults.calls["eth_getProof"] == 4, "one call with its retries"


@pytest.mark.usefixtures("uncounted")
async def test_a_proof_that_stalls_is_not_waited_for_twice(
    fake_chain: FakeServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_vpn.adapters.chain.state._PROOF_DEADLINE", 0.2)
    fake_chain.faults.by_method["eth_getProof"] = Fault(stall=True)
    async with connected(fake_chain, scheme) as session, asyncio.timeout(DEADLINE):
        assert [await root(session) for _ in range(2)] == [None] * 2
        assert fake_chain.faults.calls["eth_getProof"] == 1
        assert await session.read_all(await session.head()) == []


@pytest.mark.usefixtures("uncounted")
async def test_a_connection_that_breaks_ends_the_session_and_the_next_one_does_not_ask(
    fake_chain: FakeServer,
) -> None:
    pool = pool_of(fake_chain, "ws")
    fake_chain.faults.by_method["eth_getProof"] = Fault(drop=True, status=500)
    with pytest.raises(ChainError):
        async with pool.session() as session:
            assert isinstance(session, RpcSession)
            await root(session)
    async with pool.session() as session:
        assert isinstance(session, RpcSession)
        assert await root(session) is None
        assert await session.read_all(await session.head()) == []
    assert fake_chain.faults.calls["eth_getProof"] == 1


# -- extensions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "seconds", "fails"),
    [
        (Fault(error={"code": -32602, "message": "missing field `to`"}), HOUR, False),
        (Fault(error={"code": 3, "message": "execution reverted"}), HOUR, False),
        (Fault(error={"code": -32000, "message": "out of gas"}), HOUR, False),
        (Fault(error={"code": -32000, "message": "odd"}), FIVE_MINUTES, True),
        (Fault(result="0x12"), FIVE_MINUTES, True),
        (Fault(result=None), FIVE_MINUTES, True),
    ],
    ids=lambda x: str(x.error or x.result) if isinstance(x, Fault) else "",
)
async def test_an_endpoint_that_runs_no_code_is_not_asked_again_for_a_while(
    fake_chain: FakeServer, scheme: str, fault: Fault, seconds: float, fails: bool
) -> None:
    time, faults = Time(), fake_chain.faults
    pool = pool_of(fake_chain, scheme, monotonic=time)
    async with pool.session() as session:
        tip = await session.head()
        await fake_chain.chain.mine_empty(3)
        faults.by_method["eth_call"] = fault
        if fails:
            with pytest.raises(EndpointError):
                await session.extension(tip)
        else:
            assert await session.extension(tip) is None
        del faults.by_method["eth_call"]
        faults.calls.clear()
        time.now += seconds - 1
        assert await session.extension(tip) is None
        assert not faults.calls
        time.now += 1
        assert await session.extension(tip) is not None


async def test_a_busy_endpoint_is_asked_for_an_extension_again(fake_chain: FakeServer, scheme: str) -> None:
    async with connected(fake_chain, scheme) as session:
        tip = await session.head()
        await fake_chain.chain.mine_empty(3)
        fake_chain.faults.by_method["eth_call"] = Fault(error={"code": 429, "message": "too many requests"})
        with pytest.raises(RetryError):
            await session.extension(tip)
        del fake_chain.faults.by_method["eth_call"]
        assert await session.extension(tip) is not None


async def test_a_chain_whose_opcodes_have_another_meaning_is_not_asked_forever(
    fake_chain: FakeServer, scheme: str
) -> None:
    async with connected(fake_chain, scheme) as session:
        tip = await session.head()
        await fake_chain.chain.mine_empty(3)
        for _ in range(8):
            session.not_extended()
        fake_chain.faults.calls.clear()
        assert await session.extension(tip) is None
        assert not fake_chain.faults.calls["eth_call"]
