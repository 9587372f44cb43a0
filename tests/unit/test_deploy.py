"""The files under deploy/, as far as they can be checked without their platforms."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dstack_vpn.config import OPTIONS, load, load_relay

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMES = {option.name for option in OPTIONS} | {f"{option.name}_FILE" for option in OPTIONS if option.secret}
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "node.yaml").read_text()))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
@pytest.mark.parametrize("version", ["1.25", "1.31"])
def test_kubernetes_manifests_fit_the_schema(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_finds_mistakes() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prts": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_kubernetes_settings_are_ours_and_right() -> None:
    (data,) = (manifest["data"] for manifest in MANIFESTS if manifest["kind"] == "ConfigMap")
    assert data.keys() <= NAMES
    load(environment=data)


def test_dstack_settings_are_ours_and_right() -> None:
    document = yaml.safe_load((DEPLOY / "dstack.compose.yml").read_text())
    environment = document["services"]["node"]["environment"]
    assert environment.keys() <= NAMES
    settings = load(environment=environment | {"NODE_ID": "web-1"})
    assert settings.relay_listen is not None and settings.relay_listen.tls
    assert settings.interface != "dstack-wg0" and settings.listen_port != 9182


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_the_systemd_unit_is_one(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "dstack-vpn.service").read_text()
    copy = tmp_path / "dstack-vpn.service"
    copy.write_text(unit.replace("/usr/local/bin/dstack-vpn", "/bin/true"))
    checked = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and not checked.stderr, checked.stderr


def test_a_relay_has_a_status_page_in_its_container_alone() -> None:
    relay = {"RELAY_MODE": "tcp2udp", "PROXY_PORT": "443", "RELAY_TO": "192.0.2.1:51820"}
    assert load_relay({}, relay).health_check_port == 0
    stages = (DEPLOY.parent / "docker" / "Dockerfile").read_text().split("\nFROM ")
    (image,) = (stage for stage in stages if "AS mullvad-proxy" in stage)
    assert "\nENV HEALTH_CHECK_PORT=8080\n" in image
    assert '"dstack-vpn", "healthcheck"' in image
