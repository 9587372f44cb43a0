from typing import Any

from tests.unit.adapters.web.serving import FixedView, serving

from dstack_vpn.adapters.web.attestation import Attestation
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import AgentError


async def _attest(key: PublicKey) -> dict[str, Any]:
    return {"public_key": str(key)}


async def test_an_attestation_is_asked_for_once_and_where_there_is_none_that_is_said() -> None:
    asked: list[PublicKey] = []
    keys = [PublicKey(bytes([1]) * 32)]

    async def attest(key: PublicKey) -> dict[str, Any]:
        asked.append(key)
        if len(asked) == 1:
            raise AgentError("the guest agent does not answer")
        return {"public_key": str(key)}

    async with serving(FixedView(), parts=(Attestation(lambda: keys[0], attest),)) as served:
        status, said, _ = await served.get("/attestation")
        assert (status, said) == (503, {"error": "the guest agent does not answer"})
        for _ in range(2):
            assert (await served.get("/attestation"))[1] == {"public_key": str(keys[0])}
        keys[0] = PublicKey(bytes([2]) * 32)
        assert (await served.get("/attestation"))[1] == {"public_key": str(keys[0])}
        assert len(asked) == 3
    async with serving(FixedView(), parts=(Attestation(lambda: keys[0], None),)) as served:
        assert await served.status("/attestation") == 404
