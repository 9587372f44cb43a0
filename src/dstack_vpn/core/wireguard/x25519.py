"""The public key of a private key: X25519 with the base point (RFC 7748, section 5).

It is in plain Python, so that the daemon does not load a cryptography library (6 MB of memory) for
the one multiplication at its start. A call takes about a millisecond and is not constant in time:
its time can be observed only from inside the machine that holds the key anyway. All other
cryptography of the tunnel is WireGuard's own.
"""

from functools import lru_cache
from typing import Final

from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey

_P: Final = 2**255 - 19
_A24: Final = 121665
_BASE: Final = 9


def clamp(raw: bytes) -> PrivateKey:
    """Clamp 32 bytes to a scalar of the curve's large subgroup, as ``wg genkey`` does."""
    return PrivateKey(bytes([raw[0] & 248, *raw[1:31], (raw[31] & 127) | 64]))


@lru_cache(maxsize=32)
def derive(private_key: PrivateKey) -> PublicKey:
    """Return the public key of a private key."""
    scalar = int.from_bytes(clamp(private_key.reveal()).reveal(), "little")
    return PublicKey(_multiply(scalar, _BASE).to_bytes(32, "little"))


def _multiply(scalar: int, u: int) -> int:
    """Multiply by the Montgomery ladder, with the names of RFC 7748."""
    x_2, z_2, x_3, z_3, swap = 1, 0, u, 1, 0
    for t in range(254, -1, -1):
        bit = scalar >> t & 1
        if swap ^ bit:
            x_2, x_3, z_2, z_3 = x_3, x_2, z_3, z_2
        swap = bit
        a, b, c, d = x_2 + z_2, x_2 - z_2, x_3 + z_3, x_3 - z_3
        aa, bb, da, cb = a * a % _P, b * b % _P, d * a % _P, c * b % _P
        e = aa - bb
        x_3, z_3 = (da + cb) ** 2 % _P, u * (da - cb) ** 2 % _P
        x_2, z_2 = aa * bb % _P, e * (aa + _A24 * e) % _P
    if swap:
        x_2, z_2 = x_3, z_3
    return x_2 * pow(z_2, _P - 2, _P) % _P
