"""The base images are pinned by digest, so that a moved tag has no effect."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml
from scripts import stack

ROOT: Final = Path(__file__).parents[2]
DOCKERFILES: Final = sorted(
    path for path in ROOT.rglob("Dockerfile*") if not {".cache", ".venv", "node_modules"} & {*path.parts}
)
FROM: Final = re.compile(
    r"^FROM\s+(?:--platform=\S+\s+)?(\S+)(?:\s+AS\s+(\S+))?", re.MULTILINE | re.IGNORECASE
)
ARG: Final = re.compile(r"^ARG\s+(\w+)=(\S+)$", re.MULTILINE)
PINNED: Final = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")
OURS: Final = "dstack-vpn/"


def images(text: str) -> set[str]:
    """Return the external images that a Dockerfile uses."""
    defaults = dict(ARG.findall(text))
    stages = {stage for _, stage in FROM.findall(text)}
    named = [name for name, _ in FROM.findall(text)] + re.findall(r"--from=(\S+)", text)
    found = {re.sub(r"\$\{?(\w+)\}?", lambda it: defaults.get(it[1], it[0]), name) for name in named}
    return {name for name in found - stages if not name.startswith(OURS)}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_dockerfiles_base_is_pinned_by_its_digest(path: Path) -> None:
    found = images(path.read_text())
    assert found
    assert {name for name in found if not PINNED.fullmatch(name)} == set()


def test_all_images_have_one_base() -> None:
    assert len({name for path in DOCKERFILES for name in images(path.read_text())}) == 1


def test_compose_builds_on_another_base_only_if_it_is_named() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    builds = [service["build"] for service in services.values() if "build" in service]
    assert builds
    # Without a value, the environment variable applies if it is set, else the Dockerfile's default.
    assert all(build["args"] == ["DSTACK_VPN_BASE"] for build in builds)


def test_a_base_of_our_own_making_is_used_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "OWN_BASE", tmp_path / "docker-base")
    assert PINNED.fullmatch(stack.base_image())
    (tmp_path / "docker-base").write_text("debian:trixie-slim\n")
    assert stack.base_image() == "debian:trixie-slim"


@pytest.mark.parametrize(
    "text",
    [
        "FROM debian:trixie-slim\n",
        "ARG B=debian@sha256:12\nFROM $B AS x\n",
        "FROM a AS b\nCOPY --from=c:1 / /\n",
    ],
)
def test_what_is_not_pinned_is_found(text: str) -> None:
    assert {name for name in images(text) if not PINNED.fullmatch(name)}


DOCKER: Final = """\
#!/bin/sh
echo "$*" >>"$0.log"
case "$*" in
  "image inspect "*|"pull -q "*) case "$3" in {has}) exit 0;; *) exit 1;; esac;;
esac
"""


@pytest.mark.parametrize("reachable", [True, False])
def test_the_pinned_base_is_taken_where_it_can_be_had(tmp_path: Path, *, reachable: bool) -> None:
    """Run setup-docker with a fake docker that has the pinned image, or only the local base."""
    for name in ("scripts/setup-docker", "scripts/lib.sh", "docker/Dockerfile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(DOCKER.format(has="*@sha256:*" if reachable else "debian:trixie-slim"))
    program.chmod(0o755)
    (tmp_path / ".cache").mkdir()
    marker = tmp_path / ".cache" / "docker-base"
    marker.write_text("left over\n")
    subprocess.run(
        [str(tmp_path / "scripts" / "setup-docker"), "test"],
        env={"PATH": f"{program.parent}:{os.defpath}", "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    built = next(
        line for line in Path(f"{program}.log").read_text().splitlines() if line.startswith("build ")
    )
    if reachable:
        assert not marker.exists()
        (pinned,) = images((tmp_path / "docker" / "Dockerfile").read_text())
        assert f"DSTACK_VPN_BASE={pinned} " in built
    else:
        assert marker.read_text() == "debian:trixie-slim\n"
        assert "DSTACK_VPN_BASE=debian:trixie-slim " in built
