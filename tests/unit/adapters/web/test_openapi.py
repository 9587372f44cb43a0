from typing import Any

from tests.unit.adapters.web.serving import FixedView, serving

from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.api import Api
from dstack_vpn.adapters.web.attestation import Attestation
from dstack_vpn.adapters.web.openapi import document
from dstack_vpn.adapters.web.server import OPEN
from dstack_vpn.core.wireguard.keys import PublicKey


async def _attest(key: PublicKey) -> dict[str, Any]:
    return {"public_key": str(key)}


async def test_the_description_names_every_path_and_nothing_else() -> None:
    view = FixedView()
    attestation = Attestation(lambda: PublicKey(bytes(32)), _attest)
    async with serving(view, parts=(Api(view, Policy()), attestation)) as served:
        _, described, _ = await served.get("/openapi.json")
        assert described == document("1.2.3")
        assert described["info"]["version"] == "1.2.3"
        for path, operations in described["paths"].items():
            wait = "?wait=0" if path == "/events" else ""
            assert await served.status(path.replace("{node}", "web-1") + wait) in {200, 400, 401}
            assert list(operations) == ["get"]
            assert (operations["get"]["security"] == []) is (path in OPEN)
