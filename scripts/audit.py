"""Search the locked dependencies for known vulnerabilities, or list them as CycloneDX.

`make audit` runs pip-audit of the Python Packaging Authority. `make sbom` runs cyclonedx-bom of
OWASP. The versions are in `TOOLS`. Both are installed in a separate virtual environment, because
only this module needs them.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
HOME: Final = ROOT / ".cache" / "audit"
TOOLS: Final = ("pip-audit==2.10.1", "cyclonedx-bom==7.3.1")
LOCKS: Final = ("requirements.lock", "requirements-build.lock")
SHIPPED: Final = "requirements.lock"
"""The packages in the images. The relay's image has fewer."""
SBOM: Final = ROOT / "build" / "sbom.cdx.json"
NOT_POSSIBLE: Final = 3


def main() -> int:
    """Run the command that the first argument names; return the exit code."""
    install()
    return sbom() if sys.argv[1:] == ["sbom"] else audit()


def install() -> None:
    """Install the tools, unless these versions are installed."""
    stamp = HOME / ".installed"
    if not stamp.exists() or stamp.read_text().split() != list(TOOLS):
        run(sys.executable, "-m", "venv", str(HOME))
        run(str(HOME / "bin" / "pip"), "install", "-q", *TOOLS)
        stamp.write_text("\n".join(TOOLS))


def audit() -> int:
    """Return 0 without a known vulnerability, 1 with one, 3 if the database cannot be queried."""
    found, unknown = [], []
    for lock in LOCKS:
        command = (
            str(HOME / "bin" / "pip-audit"),
            "-r",
            lock,
            "--disable-pip",
            "--require-hashes",
            "-f",
            "json",
        )
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
        try:
            dependencies = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            print(f"{lock}: {done.stderr.strip()[-500:]}", file=sys.stderr)
            return NOT_POSSIBLE
        unknown += [d["name"] for d in dependencies if "skip_reason" in d]
        found += [(d["name"], d["version"], v["id"]) for d in dependencies for v in d.get("vulns", ())]
    for name, version, vulnerability in found:
        print(f"{name} {version}: {vulnerability}")
    if unknown:
        names = ", ".join(sorted(set(unknown)))
        print(f"NOT AUDITED (unknown to the database, or the database is unreachable): {names}")
    if not found and not unknown:
        print("no known vulnerability in the locked dependencies")
    return 1 if found else NOT_POSSIBLE if unknown else 0


def sbom() -> int:
    """Write the bill of materials of the images' Python part."""
    SBOM.parent.mkdir(exist_ok=True)
    command = (str(HOME / "bin" / "cyclonedx-py"), "requirements", "--pyproject", "pyproject.toml", SHIPPED)
    run(*command, "--output-reproducible", "--of", "JSON", "-o", str(SBOM))
    # Download URLs depend on the machine that writes this file. The hash identifies a package.
    bill = json.loads(SBOM.read_text())
    for component in bill["components"]:
        component.pop("description", None)
        for reference in component.get("externalReferences", ()):
            reference.pop("url", None)
        component["hashes"] = [
            h for r in component.pop("externalReferences", ()) for h in r.get("hashes", ())
        ]
    SBOM.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")
    print(f"{SBOM.relative_to(ROOT)}: {len(bill['components'])} components")
    return 0


def run(*command: str) -> None:
    """Run a program; exit with the end of its standard error if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    sys.exit(main())
