"""What the scan of the images takes for wrong."""

import pytest
from scripts.scan_images import finding

KEY = b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 64 + b"\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("path", "mode", "content", "what"),
    [
        ("/usr/bin/su", 0o4755, b"", "runs with another's rights"),
        ("/usr/bin/expiry", 0o2755, b"", "runs with another's rights"),
        ("/etc/passwd", 0o666, b"", "anybody can write it"),
        ("/srv", 0o777, None, "anybody can write it"),
        ("/usr/bin/gcc", 0o755, b"", "is of no use at run time"),
        ("/opt/dstack-vpn/bin/pip", 0o755, b"", "is of no use at run time"),
        ("/etc/tls.pem", 0o600, KEY, "has a private key in it"),
        ("/etc/tls.pem", 0o600, KEY.replace(b" PRIVATE", b" EC PRIVATE"), "has a private key in it"),
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
