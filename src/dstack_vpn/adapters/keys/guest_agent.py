"""A client for the dstack guest agent.

The agent serves keys, certificates and quotes to programs in the same confidential VM.

The protocol is JSON over HTTP on a Unix socket (Dstack-TEE/dstack, guest-agent/rpc). The agent is
another process, so its replies are bounded and validated. Its keys appear in no error and no log.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from dstack_vpn.adapters.bodies import read_bounded
from dstack_vpn.core.attest.quote import report_data
from dstack_vpn.core.wireguard.keys import KEY_LENGTH, PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import clamp
from dstack_vpn.errors import AgentError

SOCKETS: Final = ("/var/run/dstack.sock", "/var/run/dstack/dstack.sock", "/run/dstack/dstack.sock")
TIMEOUT: Final = 10.0
"""Seconds for a reply."""
_ANSWER: Final = 1 << 20
"""The limit of a reply in bytes. An event log has some ten thousand."""
_INSTANCE: Final = re.compile(r"[0-9A-Za-z_-]{1,128}", re.ASCII)
_HEX: Final = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})+)", re.ASCII)
PATH: Final = "dstack-vpn/wireguard/"
"""The path before the instance id. A key belongs to an app, and its replicas must not share one."""
PURPOSE: Final = "wireguard"


class GuestAgent:
    """The agent at a socket or at a simulator's URL. Every method raises `AgentError`."""

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint or next(filter(os.path.exists, SOCKETS), SOCKETS[0])

    async def call(self, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Make one call, such as ``Info``."""
        import aiohttp

        local = self.endpoint.startswith("/")
        connector = aiohttp.UnixConnector(self.endpoint) if local else None
        url = ("http://localhost" if local else self.endpoint.rstrip("/")) + f"/{method}"
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.post(url, json=request) as response,
            ):
                response.raise_for_status()
                answer = json.loads(await read_bounded(response.content, _ANSWER))
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            reason = str(error) or type(error).__name__
            raise AgentError(
                f"the guest agent at {self.endpoint} does not reply to {method}: {reason}"
            ) from error
        if not isinstance(answer, dict):
            raise AgentError(f"the guest agent's reply to {method} is not a JSON object")
        return answer

    async def instance(self) -> dict[str, str]:
        """Return those of ``app_id``, ``instance_id`` and ``compose_hash`` that the agent has."""
        info = await self.call("Info", {})
        names = ("app_id", "instance_id", "compose_hash")
        return {name: text for name in names if isinstance(text := info.get(name), str)}

    async def wireguard_key(self) -> PrivateKey:
        """Return the key of this instance. It is the same at every start, and is on no disk."""
        instance = (await self.instance()).get("instance_id", "")
        if not _INSTANCE.fullmatch(instance):
            raise AgentError(
                "the guest agent returned no instance id: without one, all replicas of the app would have "
                "the same WireGuard key. Run the app with instance ids, or set WIREGUARD_PRIVATE_KEY=generate"
            )
        answer = await self.call("GetKey", {"path": PATH + instance, "purpose": PURPOSE})
        raw = _hex(answer.get("key"))
        if raw is None or len(raw) != KEY_LENGTH or not any(raw):
            raise AgentError(f"the guest agent's key is not a valid key of {KEY_LENGTH} bytes")
        return clamp(raw)

    async def attestation(self, key: PublicKey) -> dict[str, Any]:
        """Return a quote over our public key, with the data that its verification needs."""
        data = report_data(key)
        answer = await self.call("GetQuote", {"report_data": data.hex()})
        quote = _hex(answer.get("quote"))
        if quote is None:
            raise AgentError("the guest agent's reply to GetQuote has no quote")
        log, config = answer.get("event_log"), answer.get("vm_config")
        return {
            "public_key": str(key),
            "report_data": data.hex(),
            "quote": quote.hex(),
            "event_log": log if isinstance(log, str) else "[]",
            "vm_config": config if isinstance(config, str) else "",
            **dict.fromkeys(("app_id", "instance_id", "compose_hash"), ""),
            **(await self.instance()),
        }


def _hex(text: object) -> bytes | None:
    match = _HEX.fullmatch(text) if isinstance(text, str) else None
    return bytes.fromhex(match[1]) if match else None
