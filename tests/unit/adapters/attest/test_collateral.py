"""Collateral from a file and from a configured service, which may be faulty."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import quote as percent

import pytest
from tests.quotes import Authority, Made

from dstack_vpn.adapters.attest import collateral
from dstack_vpn.errors import FormatError, TryAgainError

AUTHORITY: Final = Authority()
QUOTE: Final = Made(bytes(64), AUTHORITY).quote()
COLLATERAL: Final[dict[str, Any]] = json.loads(AUTHORITY.collateral())


class Pccs(BaseHTTPRequestHandler):
    """A PCCS that serves the collateral."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        chain, body = {
            "/sgx/certification/v4/pckcrl": (
                ("SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain"),
                bytes.fromhex(COLLATERAL["pck_crl"]),
            ),
            "/tdx/certification/v4/tcb": (
                ("TCB-Info-Issuer-Chain", "tcb_info_issuer_chain"),
                signed("tcbInfo", "tcb_info"),
            ),
            "/tdx/certification/v4/qe/identity": (
                ("SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain"),
                signed("enclaveIdentity", "qe_identity"),
            ),
            "/sgx/certification/v4/rootcacrl": (None, COLLATERAL["root_ca_crl"].encode()),
        }.get(path, (None, b""))
        self.send_response(200 if body else 404)
        if chain is not None:
            self.send_header(chain[0], percent(COLLATERAL[chain[1]]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def signed(name: str, key: str) -> bytes:
    return f'{{"{name}":{COLLATERAL[key]},"signature":"{COLLATERAL[key + "_signature"]}"}}'.encode()


class Silent(Pccs):
    """A PCCS that answers after the deadline."""

    def do_GET(self) -> None:
        time.sleep(0.5)


class Failing(Pccs):
    """A PCCS that answers every request with 503."""

    def do_GET(self) -> None:
        self.send_error(503)


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), getattr(request, "param", Pccs))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_service_gives_what_the_file_has(service: str) -> None:
    found = collateral.fetch(service, QUOTE)
    assert json.loads(found.tcb_info) == json.loads(COLLATERAL["tcb_info"])
    assert found.pck_crl.hex() == COLLATERAL["pck_crl"]
    assert found.root_ca_crl.hex() == COLLATERAL["root_ca_crl"]


@pytest.mark.parametrize("service", [Silent], indirect=True)
def test_a_service_that_does_not_answer_is_left(service: str) -> None:
    with pytest.raises(TryAgainError, match=r"did not reply within 0.1 s"):
        collateral.fetch(service, QUOTE, deadline=0.1)


@pytest.mark.parametrize("service", [Failing], indirect=True)
def test_a_service_that_has_nothing_is_named(service: str) -> None:
    with pytest.raises(TryAgainError, match=r"PCCS at 127.0.0.1:\d+ returned no collateral: .*503"):
        collateral.fetch(service, QUOTE)


def test_a_service_that_is_not_there_is_named() -> None:
    with pytest.raises(TryAgainError, match=r"127\.0\.0\.1:9"):
        collateral.fetch("http://127.0.0.1:9", QUOTE)


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "pccs.example", "http://", "http://u:secret@pccs.example", "http://[::"]
)
def test_a_url_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(FormatError, match="PCCS: expected a URL") as error:
        collateral.fetch(url, QUOTE)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 100_000, json.dumps(COLLATERAL | {"pck_crl": "zz"})])
def test_a_file_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="collateral"):
        collateral.parse(text)
