import pytest

from dstack_vpn.core.paths.port_forward import Forward, parse_forwards
from dstack_vpn.errors import FormatError


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("80=web", Forward("tcp", 80, "web", 80)),
        ("tcp:80=web:8000", Forward("tcp", 80, "web", 8000)),
        ("udp:53=192.168.1.1", Forward("udp", 53, "192.168.1.1", 53)),
        (" 443 = [fd00::5]:8443 ", Forward("tcp", 443, "fd00::5", 8443)),
        ("443=[fd00::5]", Forward("tcp", 443, "fd00::5", 443)),
    ],
)
def test_what_is_accepted(text: str, forward: Forward) -> None:
    assert Forward.parse(text) == forward
    assert Forward.parse(str(forward)) == forward


@pytest.mark.parametrize(
    "text",
    [
        *("", "80", "=web", "0=web", "65536=web", "80=", "80=web:0", "80=web:x", "sctp:80=web", "80=we b"),
        *(
            "80=web;drop",
            "80=localhost",
            "80=127.0.0.1",
            "80=[::1]",
            "٨=web",
            "80=fd00::5",
            "80=we\nb",
            ":80=web",
        ),
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Forward.parse(text)


def test_a_port_leads_to_one_place() -> None:
    assert len(parse_forwards("80=a, udp:80=b,")) == 2
    assert parse_forwards("") == ()
    with pytest.raises(FormatError, match="tcp:80 is forwarded twice"):
        parse_forwards("80=a,tcp:80=b")
