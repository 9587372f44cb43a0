// The page: statistics every few seconds, events as they happen, and navigation.

import { Refused, follow, get, token } from "./api.js";
import { strip } from "./charts.js";
import { Mesh } from "./mesh.js";
import { Model } from "./model.js";
import { NodePage } from "./node.js";
import { Peers } from "./peers.js";
import { showPolicy } from "./policy.js";
import { changes, showRegistry } from "./registry.js";
import { ago, bytes, describe, entry, make, milliseconds, nodeLink, rate, setText, span } from "./text.js";

const POLL = 2000, FEED = 120;
const element = (id) => document.getElementById(id);
const model = new Model();
const mesh = new Mesh(element("mesh"), model, (peer) => { location.hash = nodeLink(peer.name); });
const peers = new Peers(model);
const page = new NodePage(model);
// The tests read this to count frames.
window.dashboard = { mesh, model };

// -- theme ---------------------------------------------------------------------------------------------

const prefers = matchMedia("(prefers-color-scheme: light)");

function paint(theme) {
  document.documentElement.dataset.theme = theme;
  mesh.recolour();
  strip(element("strip"), model.events);
  page.update();
}

const chosen = () => localStorage.getItem("dstack-vpn.theme") ?? (prefers.matches ? "light" : "dark");
element("theme").addEventListener("click", () => {
  localStorage.setItem("dstack-vpn.theme", chosen() === "light" ? "dark" : "light");
  paint(chosen());
});
prefers.addEventListener("change", () => paint(chosen()));

// -- the token -----------------------------------------------------------------------------------------

let asking = null;

/** Ask for the token; all refused requests wait for the same dialog. */
function askToken(wrong) {
  asking ??= new Promise((given) => {
    const dialog = element("login"), field = element("token");
    element("login-wrong").textContent = wrong;
    field.value = "";
    dialog.showModal();
    field.focus();
    element("login-form").onsubmit = () => {
      token.set(field.value.trim());
      asking = null;
      given();
    };
  });
  return asking;
}
element("login").addEventListener("cancel", (event) => event.preventDefault());

/** Run `work`; if the API refuses it, ask for the token and run it again. */
async function allowed(work) {
  for (;;) {
    try { return await work(); } catch (error) {
      if (!(error instanceof Refused)) throw error;
      await askToken(error.message);
    }
  }
}

// -- statistics ----------------------------------------------------------------------------------------

function showTiles() {
  const { stats } = model, connected = model.peers.filter((peer) => peer.connected).length;
  const silent = model.peers.filter((peer) => peer.silent).length;
  setText("own-name", stats.node_id ?? "not registered");
  setText("own-address", (stats.addresses[0] ?? "").replace(/\/\d+$/, ""));
  setText("t-peers", String(model.peers.length));
  setText("t-peers-more", `${connected} with a session${silent ? `, ${silent} no answer` : ""}`);
  const latency = stats.event_to_peer_ms;
  setText("t-latency", latency ? milliseconds(latency.p50) : "–");
  setText("t-latency-more", latency ? `p99 ${milliseconds(latency.p99)}` : "no event yet");
  setText("t-block", stats.chain.head === null ? "–" : stats.chain.head.toLocaleString("en"));
  setText("t-block-more", stats.chain.head_seen === null ? "no block yet" : `seen ${ago(stats.now - stats.chain.head_seen)}`);
  setText("t-in", rate(model.sum("down")));
  setText("t-in-more", `${bytes(model.peers.reduce((sum, peer) => sum + (peer.rx_bytes ?? 0), 0))} in all`);
  setText("t-out", rate(model.sum("up")));
  setText("t-out-more", `${bytes(model.peers.reduce((sum, peer) => sum + (peer.tx_bytes ?? 0), 0))} in all`);
  element("mesh-empty").hidden = model.peers.length > 0;
}

const DEFAULT_REASONS = { chain: "", registry: "equal to the contract", device: "has the expected peers", membership: "this node is on the network", store: "state is saved", quorum: "the endpoints agree", firewall: "rules are applied", policy: "is in force, or there is no policy", api: "answers requests", metrics: "are written", dns: "answers queries", relay: "listens" };

function showHealth(health) {
  const now = model.stats?.now ?? Date.now() / 1000;
  const pill = element("health-pill");
  pill.dataset.status = health.status;
  setText("health-pill", health.status === "ok" ? "healthy" : health.status);
  element("health").replaceChildren(...health.components.map((part) => make("li", { "data-status": part.status },
    make("i"),
    make("b", { text: part.name }, part.status === "ok" ? null : make("em", { text: ` ${part.status}` })),
    make("small", { text: part.since ? `for ${span(Math.max(now - part.since, 1))}` : "" }),
    make("p", { text: part.reason || DEFAULT_REASONS[part.name] || "ok" }),
  )));
}

let reading = false, again = false, registryIsOld = true;

async function refresh() {
  if (reading) { again = true; return; }
  reading = true;
  try {
    const [stats, health, policy] = await allowed(() => Promise.all([get("stats"), get("health"), get("policy")]));
    model.take(stats, policy);
    showTiles();
    showHealth(health);
    showPolicy(policy);
    mesh.update();
    peers.update();
    page.update();
    if (registryIsOld) {
      registryIsOld = false;
      showRegistry(await allowed(() => get("contract")));
    }
  } catch { registryIsOld = true; offline(); }
  reading = false;
  if (again) { again = false; soon(); }
}

let timer = 0;
/** Read the statistics after a short delay, once for many events. */
function soon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, 60);
}

// -- events --------------------------------------------------------------------------------------------

function offline(on = false) {
  element("live").dataset.on = on ? "yes" : "no";
  element("live").lastChild.textContent = on ? "live" : "offline";
  if (!on) { element("health-pill").dataset.status = "unknown"; setText("health-pill", "no answer"); }
}

let queued = [], drawing = false;

function showEvents() {
  drawing = false;
  const arrived = queued;
  queued = [];
  const feed = element("feed");
  feed.prepend(...arrived.slice(-FEED).reverse().map((event) => entry(event, { fresh: Date.now() / 1000 - event.at < 5 })));
  while (feed.children.length > FEED) feed.lastChild.remove();
  strip(element("strip"), model.events);
  const last = arrived.at(-1), { who, words } = describe(last);
  if (Date.now() / 1000 - last.at < 5) setText("feed-said", `${who ?? ""} ${words}`);
}

function onEvent(kind, event) {
  if (kind === "reset") { soon(); return; }
  if (!model.add(event)) return;
  queued.push(event);
  if (!drawing) { drawing = true; requestAnimationFrame(showEvents); }
  if (changes(event.kind)) registryIsOld = true;
  if (Date.now() / 1000 - event.at > 10) return;
  if (event.kind === "peer.set") mesh.flash(event.peer, "good");
  if (event.kind === "policy.denied") mesh.flash(model.peers.find((peer) => peer.name === event.node)?.public_key, "bad");
  soon();
  if (page.name !== null && (event.node === page.name || event.kind === "chain.reorg" || event.kind === "policy.applied")) allowed(() => page.refresh()).catch(() => {});
}

// -- navigation ----------------------------------------------------------------------------------------

async function route() {
  const found = location.hash.match(/^#\/node\/(.+)$/);
  const name = found ? safely(found[1]) : null;
  element("overview").hidden = name !== null;
  element("node").hidden = name === null;
  document.title = name === null ? "dstack-vpn" : `${name} · dstack-vpn`;
  if (name === null) { page.close(); peers.update(); return; }
  scrollTo(0, 0);
  await allowed(() => page.open(name)).catch(() => {});
  element("node-name").focus({ preventScroll: true });
}

function safely(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

addEventListener("hashchange", route);
new ResizeObserver(() => strip(element("strip"), model.events)).observe(element("strip"));

paint(chosen());
await refresh();
await route();
follow({ backlog: 300, onEvent, onState: offline, onRefused: askToken });
setInterval(() => { if (!document.hidden) refresh(); }, POLL);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
