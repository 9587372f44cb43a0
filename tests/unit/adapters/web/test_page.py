from importlib.resources import files

import pytest
from tests.unit.adapters.web.serving import TOKEN, serving

from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.page import Page
from dstack_vpn.core.observe.events import EVENTS


async def test_every_file_is_served_to_all_and_loads_nothing_else() -> None:
    page = Page()
    names = {entry.name for entry in files("dstack_vpn.adapters.web").joinpath("page").iterdir()}
    assert {route.path.rpartition("/")[2] or "index.html" for route in page.routes()} == names
    async with serving(policy=Policy(TOKEN, loopback=False), parts=(page,)) as served:
        for route in page.routes():
            status, body, headers = await served.get(route.path)
            assert status == 200
            assert body
            assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
            assert headers["X-Frame-Options"] == "DENY"
            again = {"If-None-Match": headers["ETag"]}
            assert (await served.get(route.path, **again))[:2] == (304, "")
        assert await served.status("/ui/") == 401
        assert await served.status("/ui/nothing.js") == 401


@pytest.mark.parametrize("kind", EVENTS)
def test_every_happening_has_its_words(kind: str) -> None:
    words = files("dstack_vpn.adapters.web").joinpath("page", "text.js").read_text()
    assert f'case "{kind}":' in words
