"""The files for Prometheus and Grafana in deploy/, checked by the tools of these programs."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from dstack_vpn.core.observe.events import EVENTS

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "deploy" / "prometheus"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "dstack-vpn.json"
TYPES: Final = ROOT / ".cache" / "web" / "node_modules"

# Grafana's own types of a dashboard, and of each panel's options.
CHECK: Final = """\
import type { Dashboard, DataSourceRef, FieldConfigSource, GridPos } from "@grafana/schema";
import type { Options as Stat } from "@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
import type { Options as Table } from "@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen";
import type { Options as States } from
  "@grafana/schema/dist/types/raw/composable/statetimeline/panelcfg/x/types.gen";
import type { Options as Series } from
  "@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";

// A JSON file's strings stand for the values of the enums that the types have.
type Plain<T> = T extends string ? string : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
const dashboard: Plain<Dashboard> = %s;
const stat: Plain<Stat>[] = %s;
const table: Plain<Table>[] = %s;
const states: Plain<States>[] = %s;
const series: Plain<Series>[] = %s;
export { dashboard, stat, table, states, series };
"""


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("NO PROMTOOL: the rules are NOT tested; scripts/setup test installs it")
    done = subprocess.run(
        ["promtool", *arguments], cwd=RULES, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_rules_and_do_what_their_tests_say() -> None:
    promtool("check", "rules", "--lint-fatal", "dstack-vpn.rules.yml")
    promtool("test", "rules", "dstack-vpn.rules.test.yml")
    promtool("check", "config", "--syntax-only", "prometheus.yml")


def test_every_alert_is_tested() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", (RULES / "dstack-vpn.rules.yml").read_text()))
    tested = set(
        re.findall(r"alertname: (\w+)\n\s+exp_alerts", (RULES / "dstack-vpn.rules.test.yml").read_text())
    )
    assert alerts == tested


def test_the_dashboard_is_one_by_grafanas_own_types(dashboard: dict[str, Any], tmp_path: Path) -> None:
    compiler = TYPES / "typescript" / "bin" / "tsc"
    if not compiler.exists():
        pytest.skip("NO TYPESCRIPT: the Grafana dashboard is NOT checked; scripts/setup test installs it")
    kinds = ("stat", "table", "state-timeline", "timeseries")
    options = [[p["options"] for p in dashboard["panels"] if p["type"] == kind] for kind in kinds]
    assert all(options)
    source = tmp_path / "check.ts"
    source.write_text(CHECK % tuple(json.dumps(part) for part in (dashboard, *options)))
    (tmp_path / "node_modules").symlink_to(TYPES)
    done = subprocess.run(
        [
            *("node", compiler, "--noEmit", "--strict", "--skipLibCheck", "--target", "es2022"),
            *("--module", "esnext", "--moduleResolution", "node", source),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[:5000]


def test_panels_do_not_overlap_and_say_what_they_show(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_expressions_name_metrics_that_there_are(dashboard: dict[str, Any]) -> None:
    """A renamed metric must not leave an empty panel, or an alert that never fires."""
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    rules = (RULES / "dstack-vpn.rules.yml").read_text()
    text = "\n".join(t["expr"] for p in dashboard["panels"] for t in p.get("targets", ())) + rules
    used = set(re.findall(r"(?<!:)\bdstack_vpn_([a-z_]+?)(?:_total|_bucket|_count)?\b(?=[{\[)\s])", text))
    assert len(used) > 20
    written = {
        name: (f'"{name}"', f'"dstack_vpn_{name}"', f"}}{name}", f'"{name.removeprefix("relay_")}"')
        for name in used
    }
    missing = {name for name, forms in written.items() if not any(form in sources for form in forms)}
    assert missing == set()
    for kind in re.findall(r'kind="([a-z.]+)"', json.dumps(dashboard).replace('\\"', '"')):
        assert kind in EVENTS
