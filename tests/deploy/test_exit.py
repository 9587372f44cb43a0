"""The compose file for exits: settings that an exit and a sidecar need, without Docker."""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.exit.yml").read_text())
    assert set(loaded) == {"services"}
    services: dict[str, Any] = loaded["services"]
    return services


def test_the_network_looks_at_marks_and_forwards(services: dict[str, Any]) -> None:
    sysctls = services["net"]["sysctls"]
    assert sysctls == {
        "net.ipv4.conf.all.src_valid_mark": "1",
        "net.ipv6.conf.all.forwarding": "1",
    }


def test_a_sidecar_has_the_nodes_network_and_no_rights(services: dict[str, Any]) -> None:
    sidecar = services["sidecar"]
    assert sidecar["network_mode"] == "service:net"
    assert sidecar["depends_on"] == {"node": {"condition": "service_healthy"}}
    # CAP_NET_ADMIN could set the mark, and leave beside the exit.
    assert sidecar["cap_drop"] == ["ALL"]
    assert "cap_add" not in sidecar
    assert "privileged" not in sidecar
    assert sidecar["profiles"] == ["sidecar"]
    assert sidecar["deploy"]["resources"]["limits"].keys() == {"memory", "cpus", "pids"}
