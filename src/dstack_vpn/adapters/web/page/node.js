// The page of one node: the access decision, the peer, its traffic, and its events.

import { get } from "./api.js";
import { spark } from "./charts.js";
import { bytes, denials, entry, heard, make, rate, setText, trip } from "./text.js";

const HELD = 120;

/** Return the ports that the policies open in one direction, in words. */
function rights(policy, way, own) {
  if (!policy || own) return null;
  return policy[way].map((ports) => (ports === "*" ? "everything" : ports)).join(", ") || "nothing";
}

export class NodePage {
  #model; #name = null; #samples = []; #shown = "";

  constructor(model) { this.#model = model; }

  get name() { return this.#name; }

  async open(name) {
    if (name !== this.#name) { this.#samples = []; this.#shown = ""; }
    this.#name = name;
    setText("node-name", name);
    await this.refresh();
  }

  close() { this.#name = null; }

  /** Read the node again, after an event. */
  async refresh() {
    const name = this.#name;
    const found = await get(`peers/${encodeURIComponent(name)}`).catch((error) => { if (error.constructor.name === "Refused") throw error; return null; });
    if (name !== this.#name) return;
    this.#facts(found);
    const history = (found?.history ?? []).slice().reverse();
    const list = document.getElementById("node-history");
    list.replaceChildren(...history.map((event) => entry(event, { link: false })));
    list.hidden = !history.length;
    document.getElementById("node-none").hidden = history.length > 0;
    this.update();
  }

  /** Show new statistics. */
  update() {
    if (this.#name === null) return;
    const peer = this.#model.peers.find((each) => each.name === this.#name);
    const read = this.#model.stats?.device_read;
    if (peer && this.#samples.at(-1)?.read !== read) { this.#samples.push({ read, down: peer.down, up: peer.up }); this.#samples.splice(0, this.#samples.length - HELD); }
    spark(document.getElementById("spark"), this.#samples, ["received", "sent"]);
    setText("spark-now", peer ? `↓ ${rate(peer.down)} (${bytes(peer.rx_bytes)} in all) · ↑ ${rate(peer.up)} (${bytes(peer.tx_bytes)} in all)` : "This is not a peer of this node.");
    const handshake = document.getElementById("fact-handshake");
    if (handshake && peer) handshake.textContent = heard(peer);
    const shown = document.getElementById("fact-trip");
    if (shown && peer) shown.textContent = trip(peer);
    const denied = document.getElementById("node-denied");
    denied.hidden = !peer?.denied.length;
    setText("node-denied", denied.hidden ? "" : `${denials(peer)} in the last minute`);
  }

  #facts(found) {
    const decision = found?.decision, peer = found?.peer;
    const own = decision?.reason === "own key", on = decision?.peer || own;
    const pill = document.getElementById("node-pill");
    pill.dataset.status = !found ? "unknown" : on ? "ok" : "failed";
    pill.textContent = !found ? "not in the registry" : own ? "this node" : on ? "on the network" : decision.reason;
    const facts = [
      ["Why", decision && `${decision.reason}${decision.detail ? ` (${decision.detail})` : ""}`],
      ["Token", decision?.token],
      ["Owner", decision?.owner],
      ["Public key", decision?.public_key],
      ["Addresses", peer?.addresses.join("\n")],
      ["Tags", peer?.tags.map((tag) => (typeof tag === "number" ? `#${tag}` : tag)).join(", ")],
      ["Networks", peer?.routes.join("\n")],
      ["Reached by it", this.#model.stats?.networks.filter((each) => peer && each.token === peer.token).map((each) => each.network).join("\n")],
      ["Endpoint", peer?.endpoint],
      ["Reached by", peer && (peer.transport ?? "none")],
      ["Relay", peer?.relay?.upstream],
      ["May reach this node", rights(found?.policy, "inbound", own)],
      ["Reached from here", rights(found?.policy, "outbound", own)],
      ["Round trip", peer && "…", "fact-trip"],
      ["Handshake", peer && "…", "fact-handshake"],
      ["Key set in block", peer?.since_block],
      ["Access until", peer?.expires_at && new Date(peer.expires_at * 1000).toLocaleString()],
    ].filter(([, value]) => value !== undefined && value !== null && value !== "");
    const text = JSON.stringify(facts);
    if (text === this.#shown) return;
    this.#shown = text;
    document.getElementById("node-facts").replaceChildren(...facts.flatMap(([name, value, id]) => [make("dt", { text: name }), make("dd", id ? { text: String(value), id } : { text: String(value) })]));
  }
}
