"""A real Chromium in a real node's namespace, in which the dashboard is on 127.0.0.1."""

import shutil
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from demo.chain import real_anvil
from demo.lab import Lab, Tools
from playwright.sync_api import Browser, Page, sync_playwright
from tests.anvil import anvil_path
from tests.netns_support import is_usable, wireguard_go

TOKEN = "a-token-for-the-browser"
URL = "http://127.0.0.1:8080/"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes with a tunnel, and a third that requires its API token."""
    anvil, wireguard = anvil_path(), wireguard_go()
    if not is_usable() or anvil is None or wireguard is None:
        pytest.skip("NO ROOT, NAMESPACES, TUN, ANVIL OR WIREGUARD-GO: the dashboard is NOT tested")
    if shutil.which("chromium") is None:
        pytest.skip("NO CHROMIUM: the dashboard is NOT tested; scripts/setup test installs it")
    with Lab(Tools(real_anvil(Path(anvil)), Path(wireguard))) as lab:
        lab.start_chain()
        for name in ("a", "b", "locked"):
            node = lab.add_node(name)
            lab.mint(node)
            lab.set_endpoint(node)
        secret = lab.run.home / "token"
        secret.touch(mode=0o600)
        secret.write_text(TOKEN)
        for name, node in lab.nodes.items():
            locked = {"API_TOKEN_FILE": str(secret), "API_OPEN_TO": "none", "HEALTH_CHECK_HOST": "0.0.0.0"}
            node.start(**(locked if name == "locked" else {}))
        for node in lab.nodes.values():
            node.wait_ready()
        a, b = lab.nodes["a"], lab.nodes["b"]
        for node, other in permutations((a, b), 2):
            node.wait_reaches(other.address)
        yield lab


@pytest.fixture(scope="module")
def browser(lab: Lab) -> Iterator[Browser]:
    """A browser on a's machine.

    Until it is closed, Playwright's event loop counts as running in this thread, so that no
    asynchronous test can run. The scope of this fixture is therefore a module.
    """
    with lab.nodes["a"].namespace.entered(), sync_playwright() as play:
        # Without a sandbox, which root cannot use. The browser loads pages of our daemons only.
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """The errors that the page reported."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """A page that must send no requests to other hosts, and report no errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    foreign: list[str] = []
    page.on("request", lambda request: None if request.url.startswith(URL) else foreign.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    yield page
    page.close()
    assert foreign == []
    # The browser reports failed requests, which some tests cause.
    assert [said for said in complaints if not said.startswith("Failed to load resource")] == []
