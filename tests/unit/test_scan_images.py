"""The findings of the image scan."""

import pytest
from scripts.scan_images import finding

KEY = b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 64 + b"\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("path", "mode", "content", "what"),
    [
        ("/usr/bin/su", 0o4755, b"", "is set-user-ID or set-group-ID"),
        ("/usr/bin/expiry", 0o2755, b"", "is set-user-ID or set-group-ID"),
        ("/etc/passwd", 0o666, b"", "is writable by every user"),
        ("/srv", 0o777, None, "is writable by every user"),
        ("/usr/bin/gcc", 0o755, b"", "is not needed at run time"),
        ("/opt/dstack-vpn/bin/pip", 0o755, b"", "is not needed at run time"),
        ("/etc/tls.pem", 0o600, KEY, "contains a private key"),
        ("/etc/tls.pem", 0o600, KEY.replace(b" PRIVATE", b" EC PRIVATE"), "contains a private key"),
        ("/etc/tls.pem", 0o600, KEY.replace(b" PRIVATE", b" PUBLIC"), None),
        ("/opt/lib/serialization.py", 0o644, b'b"-----BEGIN PRIVATE KEY-----\\n"', None),
        ("/opt/lib/make", 0o644, b"", None),
        ("/var/mail", 0o2775, None, None),
        ("/tmp", 0o1777, None, None),
        ("/usr/bin/python3", 0o755, b"", None),
    ],
)
def test_what_is_wrong_with_a_file(path: str, mode: int, content: bytes | None, what: str | None) -> None:
    assert finding(path, mode, content) == what
