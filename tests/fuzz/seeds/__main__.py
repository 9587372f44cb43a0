"""Generate the corpus: `python -m tests.fuzz.seeds [NAME...]` writes `corpus/NAME.hex`, or all.

Each seed comes from an encoder: one of the project, or one of the tests (eth-abi, dnspython,
`tests.quotes`). All seeds are the same each time, except those with signatures.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Final

from tests.fuzz.driver import CORPUS
from tests.fuzz.seeds import chain, local, peers, policy

MADE: Final[dict[str, Callable[[], Iterable[bytes | str]]]] = {
    "abi": chain.for_abi,
    "attest": local.for_attest,
    "dns": peers.for_dns,
    "dns-answer": peers.for_dns_answer,
    "dns-forward": peers.for_dns_forward,
    "dump": peers.for_dump,
    "endpoints": lambda: (
        local.NODE["PEER_ENDPOINTS"],
        "7=udp://[2001:db8::1]:51820",
        "a.b_c=tcp://x.example:1,tls://y.example:2",
    ),
    "enrolment": chain.for_enrolment,
    "event": chain.for_event,
    "event-log": local.for_event_log,
    "forwards": lambda: (local.NODE["FORWARD_TO"], "tcp:443=[fd00::1]:8443, 8080=db"),
    "frames": peers.for_frames,
    "http": policy.for_http,
    "invitation": chain.for_invitation,
    "invitation-code": chain.for_invitation_code,
    "jsonrpc": chain.for_jsonrpc,
    "keystore": chain.for_keystore,
    "log": chain.for_log,
    "members": policy.for_members,
    "multicall": chain.for_multicall,
    "netlink": peers.for_netlink,
    "networks": lambda: ("10.0.0.0/8,fd00::/8,127.0.0.1", "::1/128, 192.0.2.0/24"),
    "policy": policy.for_policy,
    "quorum": policy.for_quorum,
    "quote": local.for_quote,
    "reach": chain.for_reach,
    "record": local.for_record,
    "relay-listen": lambda: (local.NODE["RELAY_LISTEN"], "tcp://[::]:8443", "tls://0.0.0.0:443?cert=dstack"),
    "relay-settings": local.for_relay_settings,
    "retry-after": chain.for_retry_after,
    "revert": chain.for_revert,
    "rpc-url": lambda: ("wss://user:secret@[2001:db8::1]:8545/v3/key?token=abcdef#f", "http://a.example"),
    "settings": local.for_settings,
    "state": chain.for_state,
    "stream": peers.for_stream,
    "token-uri": chain.for_token_uri,
    "tags": chain.for_tags,
    "toml": local.for_toml,
    "uapi": peers.for_uapi,
    "uapi-status": peers.for_uapi_status,
    "urls": lambda: (local.NODE["RPC_URL"], "wss://a.example/key , https://b.example:8545"),
    "wgconf": local.for_wgconf,
}


SIGNED: Final = frozenset({"attest", "quote"})
"""The decoders whose seeds have signatures by newly generated keys."""


def make(name: str) -> list[bytes]:
    """Return a decoder's seeds."""
    return [seed.encode() if isinstance(seed, str) else seed for seed in MADE[name]()]


def main() -> None:
    """Write the files that the arguments name, or all."""
    for name in sys.argv[1:] or MADE:
        (CORPUS / f"{name}.hex").write_text("".join(f"{seed.hex()}\n" for seed in make(name)), "ascii")


if __name__ == "__main__":
    main()
