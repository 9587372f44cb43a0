"""A revocation while the node is stopped, on endpoints that refuse long block ranges."""

import pytest
from tests.anvil import key_of
from tests.fake_chain import FakeServer, Fault
from tests.integration.conftest import MakeRig
from tests.integration.support import eventually

AWAY = 600
"""Blocks while the node is stopped."""
REFUSALS = {
    "limit exceeded": Fault(error={"code": -32005, "message": "limit exceeded"}),
    "odd words": Fault(error={"code": -32099, "message": "nope"}),
    "only data": Fault(error={"code": -32000, "message": "error", "data": "block range is too wide"}),
    "invalid params": Fault(error={"code": -32602, "message": "invalid argument 0"}),
    "no text": Fault(error={"code": 0, "message": ""}),
    "pruned": Fault(error={"code": -32000, "message": "historical logs need an archive"}),
    "status 400": Fault(status=400, body="<html>Bad Request</html>"),
    "status 500": Fault(status=500, body="[oops"),
    "null": Fault(result=None),
}
"""The endpoint's reply to a block range that is too long."""


@pytest.mark.parametrize("most", [1, 10])
@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_peer_revoked_meanwhile_goes(
    refusal: str, scheme: str, most: int, fake_chain: FakeServer, make_rig: MakeRig
) -> None:
    if scheme == "ws" and refusal.startswith("status"):
        pytest.skip("a WebSocket has no statuses")
    chain, faults = fake_chain.chain, fake_chain.faults
    await chain.mint(1)
    await chain.mint(2)
    url = getattr(fake_chain, scheme)
    async with make_rig(url, chain.contract).running() as rig:
        await eventually(lambda: rig.keys == {key_of(1), key_of(2)}, "both are peers")
    await chain.mine_empty(AWAY // 2)
    await chain.revoke(1)
    await chain.mine_empty(AWAY // 2)
    faults.most_blocks, faults.range_fault = most, REFUSALS[refusal]
    async with make_rig(url, chain.contract).running(settled=False) as rig:
        await eventually(lambda: rig.keys == {key_of(2)} and rig.follows(), "the revoked peer is removed")
        await chain.mint(3)
        await eventually(lambda: key_of(3) in rig.keys, "a mint afterwards")
        assert len(rig.sessions) == 1


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_an_endpoint_that_serves_no_logs_at_all(
    scheme: str, fake_chain: FakeServer, make_rig: MakeRig
) -> None:
    """The contract is enumerable. The node reads its state instead of the logs."""
    chain = fake_chain.chain
    await chain.mint(1)
    await chain.mint(2)
    url = getattr(fake_chain, scheme)
    async with make_rig(url, chain.contract).running():
        pass
    await chain.revoke(1)
    await chain.mine_empty(50)
    fake_chain.faults.by_method["eth_getLogs"] = Fault(error={"code": -32601, "message": "no logs here"})
    async with make_rig(url, chain.contract).running(settled=False) as rig:
        await eventually(lambda: rig.keys == {key_of(2)} and rig.follows(), "the revoked peer is removed")
