"""TLS of the relays: trust, errors and replaced certificates."""

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from tests.unit.adapters.relay.pki import Authority

from dstack_vpn.adapters.relay import certs
from dstack_vpn.adapters.relay.certs import Certificates
from dstack_vpn.adapters.relay.dial import Dialled, dial
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
from dstack_vpn.core.paths.relay_url import Listen, RelayUrl
from dstack_vpn.core.wireguard.framing import frame
from dstack_vpn.errors import RelayError

HOST = "relay.test"


@asynccontextmanager
async def serving(listen: Listen, folder: Path) -> AsyncIterator[tuple[int, Certificates]]:
    """Run a tcp2udp over TLS. Yield its port and its certificates."""
    secure = await Certificates.load(listen, folder, None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        service = Tcp2Udp(Engine(), listen, sink.getsockname(), secure=secure)
        running = asyncio.ensure_future(service.run())  # noqa: TID251 - cancelled below
        try:
            yield service.address.port, secure
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


def listen_on(cert: Path | None = None, key: Path | None = None) -> Listen:
    options = "&".join(f"{name}={path}" for name, path in (("cert", cert), ("key", key)) if path)
    return Listen.parse("tls://127.0.0.1:0" + (f"?{options}" if options else ""))


def upstream(port: int, options: str) -> RelayUrl:
    return RelayUrl.parse(f"tls://127.0.0.1:{port}?{options}")


async def connect(port: int, options: str) -> Dialled:
    dialled = await dial(upstream(port, options))
    dialled.stream.close()
    return dialled


async def problem(port: int, options: str) -> str:
    with pytest.raises(RelayError) as caught:
        await connect(port, options)
    return str(caught.value)


# -- certificates that a client trusts -------------------------------------------------------------


async def test_the_pin_of_a_self_made_certificate_is_enough(tmp_path: Path) -> None:
    async with serving(listen_on(), tmp_path) as (port, secure):
        dialled = await connect(port, f"pin={secure.pin}")
        assert dialled.tls_version == "TLSv1.3"


async def test_another_pin_is_refused_and_the_servers_own_is_named(tmp_path: Path) -> None:
    async with serving(listen_on(), tmp_path) as (port, secure):
        said = await problem(port, f"pin=sha256:{'0' * 64}")
    assert f"tls://127.0.0.1:{port}: pin:" in said
    assert secure.pin in said


async def test_a_self_made_certificate_is_not_trusted_without_its_pin(tmp_path: Path) -> None:
    async with serving(listen_on(), tmp_path) as (port, _):
        assert "certificate" in await problem(port, "sni=relay.test")


async def test_a_ca_file_vouches_for_the_name(tmp_path: Path) -> None:
    authority = Authority.new()
    ca = authority.write(tmp_path / "ca.pem")
    async with serving(listen_on(*authority.issue(HOST, tmp_path)), tmp_path) as (port, secure):
        await connect(port, f"ca={ca}&sni={HOST}")
        await connect(port, f"ca={ca}&sni={HOST}&pin={secure.pin}")
        assert "name" in await problem(port, f"ca={ca}&sni=other.test")
        assert "pin:" in await problem(port, f"ca={ca}&sni={HOST}&pin=sha256:{'1' * 64}")


async def test_an_expired_certificate_is_refused_with_the_reason(tmp_path: Path) -> None:
    authority = Authority.new()
    ca = authority.write(tmp_path / "ca.pem")
    async with serving(listen_on(*authority.issue(HOST, tmp_path, days=-1)), tmp_path) as (port, _):
        assert "expired" in await problem(port, f"ca={ca}&sni={HOST}")


async def test_a_ca_file_that_is_missing_is_named(tmp_path: Path) -> None:
    async with serving(listen_on(), tmp_path) as (port, _):
        assert f"ca: {tmp_path}/no.pem" in await problem(port, f"ca={tmp_path}/no.pem")


async def test_a_server_that_speaks_no_tls_is_told_from_one_that_does() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.write(b"\x00\x05hello"), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert f"tls://127.0.0.1:{port}:" in await problem(port, f"pin=sha256:{'0' * 64}")


# -- TLS versions that a server accepts ------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "accepted"), [(ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)]
)
async def test_tls_1_2_and_1_3_are_spoken(version: ssl.TLSVersion, accepted: bool, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    async with serving(listen_on(), tmp_path) as (port, _):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(frame(b"x"))
        writer.close()
        assert accepted


def test_nothing_older_than_tls_1_2_is_accepted(tmp_path: Path) -> None:
    authority = Authority.new()
    secure = Certificates(*authority.issue(HOST, tmp_path), "tls://x")
    assert secure._context.minimum_version is ssl.TLSVersion.TLSv1_2


# -- a server's certificates -----------------------------------------------------------------------


async def test_a_self_made_certificate_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    first = await Certificates.load(listen_on(), tmp_path, None)
    second = await Certificates.load(listen_on(), tmp_path, None)
    assert first.pin == second.pin
    assert stat.S_IMODE(os.stat(tmp_path / certs.SELF_MADE).st_mode) == 0o600  # noqa: PTH116


async def test_new_files_are_taken_without_a_restart_and_broken_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certs, "LOOK", 0.0)
    authority = Authority.new()
    ca = authority.write(tmp_path / "ca.pem")
    cert, key = authority.issue(HOST, tmp_path)
    async with serving(listen_on(cert, key), tmp_path) as (port, secure):
        old = secure.pin
        authority.issue(HOST, tmp_path)
        await connect(port, f"ca={ca}&sni={HOST}")
        new = secure.pin
        assert new != old
        cert.write_text("broken")
        await connect(port, f"ca={ca}&sni={HOST}&pin={new}")
        assert secure.pin == new


async def test_a_certificate_that_is_not_valid_does_not_replace_one_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certs, "LOOK", 0.0)
    authority = Authority.new()
    ca = authority.write(tmp_path / "ca.pem")
    cert, key = authority.issue(HOST, tmp_path)
    with capture_logs() as logged:
        async with serving(listen_on(cert, key), tmp_path) as (port, secure):
            old = secure.pin
            authority.issue(HOST, tmp_path, days=-1)
            for _ in range(2):
                await connect(port, f"ca={ca}&sni={HOST}&pin={old}")
            assert "expired on" in str(secure.problem)
            authority.issue(HOST, tmp_path)
            await connect(port, f"ca={ca}&sni={HOST}")
            assert secure.problem is None
            assert secure.pin != old
    assert [line["event"] for line in logged].count("relay.certificate_refused") == 1


async def test_an_expired_certificate_at_the_start_is_served_with_a_word(tmp_path: Path) -> None:
    cert, key = Authority.new().issue(HOST, tmp_path, days=-1)
    with capture_logs() as logged:
        found = await Certificates.load(listen_on(cert, key), tmp_path, None)
    assert "expired on" in str(found.problem)
    assert [line["event"] for line in logged] == ["relay.certificate_invalid"]


@pytest.mark.parametrize("text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nx\n"])
async def test_a_file_without_a_certificate_is_named(text: str, tmp_path: Path) -> None:
    _, key = Authority.new().issue(HOST, tmp_path)
    cert = tmp_path / "bad.pem"
    cert.write_text(text)
    with pytest.raises(RelayError, match=rf"cert: {cert}"):
        await Certificates.load(listen_on(cert, key), tmp_path, None)


async def test_missing_and_foreign_keys_are_named(tmp_path: Path) -> None:
    authority = Authority.new()
    cert, _ = authority.issue(HOST, tmp_path)
    _, other = authority.issue("other.test", tmp_path)
    with pytest.raises(RelayError, match="key: /nowhere"):
        await Certificates.load(listen_on(cert, Path("/nowhere")), tmp_path, None)
    with pytest.raises(RelayError, match=str(cert)):
        await Certificates.load(listen_on(cert, other), tmp_path, None)


# -- the guest agent -------------------------------------------------------------------------------


@asynccontextmanager
async def guest_agent(answer: object, folder: Path) -> AsyncIterator[str]:
    """Run an agent on a Unix socket that gives each request the same answer."""

    async def tls_key(request: web.Request) -> web.Response:
        assert (await request.json())["usage_server_auth"] is True
        return web.json_response(answer)

    app = web.Application()
    app.router.add_post("/GetTlsKey", tls_key)
    runner = web.AppRunner(app)
    await runner.setup()
    path = str(folder / "dstack.sock")
    await web.UnixSite(runner, path).start()
    try:
        yield path
    finally:
        await runner.cleanup()


async def test_the_guest_agents_certificate_is_served(tmp_path: Path) -> None:
    authority = Authority.new()
    cert, key = (path.read_text() for path in authority.issue(HOST, tmp_path))
    answer = {"key": key, "certificate_chain": [cert, authority.write(tmp_path / "ca.pem").read_text()]}
    listen = Listen.parse("tls://127.0.0.1:0?cert=dstack")
    async with guest_agent(answer, tmp_path) as agent:
        secure = await Certificates.load(listen, tmp_path, agent)
    assert secure.pin == Certificates(*authority_files(tmp_path), "tls://x").pin


def authority_files(folder: Path) -> tuple[Path, Path]:
    return folder / f"{HOST}.pem", folder / f"{HOST}.key"


@pytest.mark.parametrize(
    "answer", [{}, [], {"key": 1, "certificate_chain": []}, {"key": "x", "certificate_chain": "y"}]
)
async def test_an_agent_that_answers_nonsense_is_named(answer: object, tmp_path: Path) -> None:
    listen = Listen.parse("tls://127.0.0.1:0?cert=dstack")
    async with guest_agent(answer, tmp_path) as agent:
        with pytest.raises(RelayError, match="cert=dstack: the guest agent"):
            await Certificates.load(listen, tmp_path, agent)


async def test_an_agent_that_is_not_there_is_named(tmp_path: Path) -> None:
    listen = Listen.parse("tls://127.0.0.1:0?cert=dstack")
    with pytest.raises(RelayError, match=f"cert=dstack: the guest agent at {tmp_path}/no.sock"):
        await Certificates.load(listen, tmp_path, f"{tmp_path}/no.sock")
