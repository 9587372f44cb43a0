"""The cost of monitoring: the API under load, metrics and the dashboard with 1,000 peers."""

import asyncio
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
from tests.fake_chain import serve

from benchmarks import events
from benchmarks.harness import Daemon, NotMeasurableError, new_key, quiet_namespace, running_daemon, summary

URL: Final = "http://127.0.0.1:8080"
LOAD_SECONDS: Final = 30
CONNECTIONS: Final = 64
PATHS: Final = (
    *("/ready", "/peers", "/stats", "/metrics", "/decisions?node=node-1", "/whois?ip=10.77.0.3", "/version"),
)
SCRAPES: Final = 12
PEERS: Final = 1000
FRAMES_FOR: Final = 10
WRK: Final = """\
local paths = {%s}
local next = 0
request = function()
  next = next %% #paths + 1
  return wrk.format("GET", paths[next])
end
"""


async def load() -> dict[str, Any]:
    """Measure events without and with load: wrk on loopback for 30 s, 64 connections, all paths."""
    if shutil.which("wrk") is None:
        raise NotMeasurableError("wrk is missing: run scripts/setup test")
    with quiet_namespace() as home:
        async with serve() as server:
            events._fill(server, 100)
            async with running_daemon(home, new_key(), RPC_URL=server.ws) as daemon:
                await events._filled(daemon, 100)
                sent = events._stamp(server)

                async def one(turn: int) -> float:
                    return await events._frame_event(server, daemon, sent, 100 + turn // 2, turn)

                quiet = await _events(daemon, one, 0, LOAD_SECONDS / 3)
                script = home / "paths.lua"
                script.write_text(WRK % ",".join(f'"{path}"' for path in PATHS))
                wrk = await asyncio.create_subprocess_exec(
                    *("wrk", "-t2", f"-c{CONNECTIONS}", f"-d{LOAD_SECONDS}s", "--latency"),
                    *("-s", str(script), URL),
                    stdout=asyncio.subprocess.PIPE,
                )
                loaded = await _events(daemon, one, quiet["n"], LOAD_SECONDS - 2)
                assert wrk.returncode is None, "the load ended before the events did"
                output = (await wrk.communicate())[0].decode()
                return {"quiet": quiet, "loaded": loaded, "wrk": _wrk(output), "memory_mb": daemon.memory()}


async def _events(
    daemon: Daemon, one: Callable[[int], Awaitable[float]], first: int, length: float
) -> dict[str, Any]:
    """Cause events one after the other for ``length`` seconds, and wait for each to be applied."""
    mark, seconds, began = len(daemon.entries), list[float](), time.monotonic()
    while time.monotonic() - began < length:
        seconds.append(await one(first + len(seconds)))
    if len(seconds) % 2:
        seconds.append(await one(first + len(seconds)))
    named = {"peer.set", "peer.removed"}
    logged = [e["latency_ms"] for e in daemon.entries[mark:] if e["event"] in named]
    own = [latency for latency in logged if latency is not None]
    inside = {f"daemon_{k}": v for k, v in summary([ms / 1000 for ms in own]).items()}
    return {**summary(seconds), **inside, "lost": len(seconds) - len(logged)}


def _wrk(output: str) -> dict[str, Any]:
    """Return wrk's figures: requests per second, latency, and failures."""
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    errors = re.search(r"Socket errors: (.*)", output)
    rate, p99 = re.search(r"Requests/sec:\s+([\d.]+)", output), re.search(r"99%\s+(\S+)", output)
    assert rate is not None
    return {
        "requests_per_second": float(rate[1]),
        "p99": None if p99 is None else p99[1],
        "not_2xx": int(bad[1]) if bad else 0,
        "socket_errors": errors[1] if errors else "none",
    }


async def metrics() -> dict[str, Any]:
    """Measure scrapes of a node with 200 peers, which all have series, and of one with 1,000."""
    found: dict[str, Any] = {}
    for peers in (200, PEERS):
        with quiet_namespace() as home:
            async with serve() as server:
                events._fill(server, peers)
                async with running_daemon(home, new_key(), RPC_URL=server.ws) as daemon:
                    await events._filled(daemon, peers)
                    async with aiohttp.ClientSession() as client:
                        found[f"peers_{peers}"] = await _scrapes(client)
    return found


async def _scrapes(client: aiohttp.ClientSession) -> dict[str, Any]:
    seconds, size = [], 0
    for _ in range(SCRAPES + 1):
        began = time.perf_counter()
        async with client.get(f"{URL}/metrics") as reply:
            size = len(await reply.read())
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(1.5)  # longer than the daemon caches a document
    return {"first_ms": round(seconds[0] * 1000, 2), **summary(seconds[1:]), "bytes": size}


async def dashboard() -> dict[str, Any]:
    """Measure frames per second in Chromium with 1,000 peers, while members change."""
    browser = shutil.which("chromium")
    if browser is None:
        raise NotMeasurableError("chromium is missing: run scripts/setup test")
    from playwright.async_api import async_playwright

    with quiet_namespace() as home:
        async with serve() as server:
            events._fill(server, PEERS)
            async with (
                running_daemon(home, new_key(), RPC_URL=server.ws) as daemon,
                async_playwright() as play,
            ):
                await events._filled(daemon, PEERS)
                chromium = await play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
                found = {}
                for width, height in ((390, 844), (1440, 900), (3840, 2160)):
                    page = await chromium.new_page(viewport={"width": width, "height": height})
                    await page.add_init_script(LIVELY)
                    await page.goto(URL)
                    await page.get_by_text(re.compile(r"^1\d\d\d$")).first.wait_for()  # the number of peers
                    await asyncio.sleep(5)
                    first = PEERS + 1000 * width
                    changes = asyncio.gather(
                        *(_change(server, first + n, n / 2) for n in range(FRAMES_FOR * 2))
                    )
                    found[f"{width}x{height}"] = await page.evaluate(COUNT, FRAMES_FOR * 1000)
                    await changes
                    await page.close()
                await chromium.close()
                return found


COUNT: Final = """(length) => new Promise((done) => {
  const began = performance.now(), drawn = dashboard.mesh.frames, gaps = [];
  let last = began;
  const tick = (now) => {
    gaps.push(now - last); last = now;
    if (now - began < length) return requestAnimationFrame(tick);
    gaps.sort((a, b) => a - b);
    done({
      frames_per_second: Math.round((dashboard.mesh.frames - drawn) / (now - began) * 10000) / 10,
      gap_p99_ms: Math.round(gaps[Math.floor(gaps.length * 0.99)] * 10) / 10,
      gap_max_ms: Math.round(gaps.at(-1) * 10) / 10,
    });
  };
  requestAnimationFrame(tick);
})"""


async def _change(server: Any, number: int, after: float) -> None:  # noqa: ANN401 - the fake chain's server
    await asyncio.sleep(after)
    await server.chain.mint(number)


# Adds handshakes and traffic to the daemon's replies, because the thousand peers have no machines.
LIVELY: Final = """
const json = Response.prototype.json;
Response.prototype.json = async function () {
  const found = await json.call(this);
  (found.peers ?? []).forEach((peer, number) => {
    peer.last_handshake = found.now - number % 170;
    peer.transport = ["udp", "udp", "udp", "tcp", "tls"][number % 5];
    peer.rx_bytes = peer.tx_bytes = Math.round(found.now * (number % 7) * 10000) % 1e12;
  });
  return found;
};
"""


ALL: Final = {"api-load": load, "api-metrics": metrics, "api-dashboard": dashboard}
