"""Seeds of access decisions: policies, registry events, HTTP requests."""

from collections.abc import Iterable

from tests.fuzz.cursor import blob
from tests.fuzz.seeds.texts import REACH
from tests.scripted import key
from tests.unit.core.policy.examples import ALICE, POLICY


def _granted(at: int, token: int, owner: int, name: str, number: int) -> bytes:
    return bytes([at, 0, 0, token, owner]) + blob(name.encode()) + bytes([number])


def _observed(at: int, token: int, number: int, expires: int) -> bytes:
    head = bytes([at, 0, 7, token, 1, token % 3]) + blob(b"web") + bytes([number])
    return head + blob(REACH.encode()) + bytes([1, expires]) + bytes([1]) * bool(expires)


def for_policy() -> Iterable[str]:
    yield POLICY
    yield POLICY.replace("\n", "\r\n")
    yield '{"grants":[{"src":["*"],"dst":["*"],"ip":["*"]}]}'
    yield f"""{{"tests": [{{"src": "owner:{ALICE}", "deny": ["node:office:udp:53", "tag:db:icmp:*"]}}],
      "grants": [/* "none" */], }}"""
    yield '{"grants": [{"src": ["fd00:77::/48", "tag:db"], "dst": ["autogroup:self"], "ip": ["udp:1-9"]}]}'


def for_members() -> Iterable[bytes]:
    grants = [_granted(n, n, n % 3, f"web-{n}", n) for n in range(1, 6)]
    revoked, transferred = bytes([9, 0, 2, 2]), bytes([9, 0, 3, 3, 2])
    rekeyed, of_owner = bytes([10, 0, 4, 3, 4]), bytes([11, 0, 5, 1, 1])
    expires = bytes([12, 0, 6, 4, 1, 90])
    placed = bytes([12, 0, 6, 4, 0]) + blob(REACH.encode())
    by_text = bytes([13, 0, 4, 2, 255]) + blob(str(key(2)).encode())
    every = [*grants, revoked, transferred, rekeyed, of_owner, expires, placed, by_text]
    for head in (bytes([0, 100, 0, 50, 0]), bytes([1, 20, 3, 95, 0]), bytes([0, 100, 1, 50, 3])):
        yield head + b"".join(every)
        yield head + b"".join(grants)
        yield head + b"".join(_observed(n, n, n % 4, 40 * n) for n in range(1, 7))
        yield head + grants[0] + _granted(7, 7, 1, "web-1", 1) + _granted(8, 253, 1, "x", 3)


def _replies(count: int, *tokens: int) -> bytes:
    """Return a round of ``count`` endpoints with these replies about the tokens, and our height."""
    replies = b"".join(bytes([30 + n, 15, *tokens]) for n in range(count))
    return bytes([0, count]) + replies + bytes([40])


def for_quorum() -> Iterable[bytes]:
    grants = b"".join(bytes([1]) + _granted(n, n, n % 3, f"web-{n}", n) + bytes([n]) for n in range(1, 4))
    revoked = bytes([2]) + bytes([9, 0, 2, 2]) + bytes([9])
    theirs = bytes([161, 1]) + blob(b"web") + bytes([4]) + blob(b"") + bytes([1, 0])
    for needed in (0, 1):
        head = bytes([needed, 50])
        yield head + grants + _replies(3, 0, 0, 0)
        yield head + grants + _replies(2, 0, 0, 0) + revoked + _replies(3, 0, 0, 160)
        yield head + grants + _replies(3, 0, 160, 0) + _replies(1, 0, 0, 0)
        yield (
            head
            + grants
            + bytes([0, 2, 30, 15, 0, 0])
            + theirs
            + bytes([31, 7, 0, 255, 0, 40])
            + _replies(2, 0, 0, 0)
        )


def for_http() -> Iterable[str]:
    bearer, host = "Authorization: Bearer 0123456789abcdef", "Host: localhost:8080"
    yield f"127.0.0.1\n127.0.0.1\n/peers\n{host}"
    yield f"192.0.2.7\n192.0.2.1\n/peers\n{bearer}\nHost: vpn.example.org"
    yield "10.77.0.3\n10.77.0.2\n/peers\nHost: web-1.vpn.internal:8080"
    yield "::ffff:10.77.0.3\n10.77.0.2\n/metrics\nHost: [fd00::2]:8080\nVia: 1.1 x"
    yield f"fd00::9%eth0\nfd00::2\n/auth/web\n{host}\nX-Forwarded-For: 192.0.2.9, [fd00::1]:80"
    hops = ["X-Forwarded-For: 10.77.0.9:1, 127.0.0.2", "X-Real-IP: 10.77.0.9", "Forwarded: for=192.0.2.1"]
    yield "\n".join(["127.0.0.1", "127.0.0.1", "/auth", host, *hops])
    yield "\n".join(["10.77.0.2", "10.77.0.2", "/auth", "Host: 10.77.0.2", *hops])
