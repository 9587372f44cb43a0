// The list of peers. Only visible rows exist, so a thousand peers cost as much as a dozen.

import { denials, heard, make, nodeLink, rate, trip } from "./text.js";

const SPARE = 6;
const COLUMNS = ["node", "address", "way", "trip", "handshake", "in", "out", "endpoint"];

const ORDERS = {
  name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
  trip: (a, b) => (a.round_trip_ms ?? Infinity) - (b.round_trip_ms ?? Infinity) || ORDERS.name(a, b),
  handshake: (a, b) => (a.age ?? Infinity) - (b.age ?? Infinity) || ORDERS.name(a, b),
  traffic: (a, b) => b.down + b.up - (a.down + a.up) || ORDERS.name(a, b),
  since: (a, b) => (b.since_block ?? 0) - (a.since_block ?? 0) || b.token - a.token,
};

export class Peers {
  #model; #rows = document.getElementById("rows"); #spacer = make("div", { kind: "spacer", role: "presentation" });
  #pool = []; #shown = []; #filter = ""; #order = "name"; #asked = false;

  constructor(model) {
    this.#model = model;
    this.#rows.append(this.#spacer);
    this.#rows.addEventListener("scroll", () => this.#soon(), { passive: true });
    new ResizeObserver(() => this.#soon()).observe(this.#rows);
    document.getElementById("filter").addEventListener("input", (event) => { this.#filter = event.target.value.trim().toLowerCase(); this.#rows.scrollTop = 0; this.update(); });
    document.getElementById("sort").addEventListener("change", (event) => { this.#order = event.target.value; this.#rows.scrollTop = 0; this.update(); });
  }

  /** Apply new statistics, another filter, or another order. */
  update() {
    const fits = (peer) => !this.#filter || `${peer.name} ${peer.owner} ${peer.addresses.join(" ")} ${peer.endpoint ?? ""} ${peer.public_key}`.toLowerCase().includes(this.#filter);
    this.#shown = this.#model.peers.filter(fits).sort(ORDERS[this.#order]);
    const table = document.getElementById("table");
    table.setAttribute("aria-rowcount", String(this.#shown.length + 1));
    table.style.setProperty("--shown", String(Math.max(1, Math.min(this.#shown.length, 12))));
    table.hidden = !this.#shown.length;
    const none = document.getElementById("peers-none");
    none.hidden = this.#shown.length > 0;
    none.textContent = this.#filter ? "No peer matches." : "No peers yet.";
    this.#soon();
  }

  #soon() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => { this.#asked = false; this.#paint(); });
  }

  #paint() {
    const height = this.#pool[0]?.row.offsetHeight || (matchMedia("(max-width: 900px)").matches ? 62 : 42);
    const first = Math.max(0, Math.floor(this.#rows.scrollTop / height) - SPARE);
    const count = Math.min(this.#shown.length - first, Math.ceil(this.#rows.clientHeight / height) + 2 * SPARE);
    this.#spacer.style.height = `${this.#shown.length * height}px`;
    while (this.#pool.length < count) this.#pool.push(this.#make());
    this.#pool.forEach((made, index) => {
      made.row.hidden = index >= count;
      if (index < count) this.#fill(made, this.#shown[first + index], first + index, height);
    });
    if (!this.#pool[0] || this.#pool[0].row.offsetHeight !== height) { if (count > 0) this.#soon(); }
  }

  #make() {
    const row = make("div", { role: "row" }), cells = {};
    for (const name of COLUMNS) row.append((cells[name] = make("span", { role: "cell", kind: `c-${name}` })));
    const link = make("a", { href: "#/" }), way = make("span", { kind: "way" });
    const mark = make("small", { kind: "denied" });
    cells.node.append(link, mark);
    cells.way.append(way);
    this.#rows.append(row);
    return { row, cells, link, mark, way };
  }

  #fill({ row, cells, link, mark, way }, peer, index, height) {
    const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
    row.style.transform = `translateY(${index * height}px)`;
    row.setAttribute("aria-rowindex", String(index + 2));
    put(link, peer.name);
    link.setAttribute("href", nodeLink(peer.name));
    put(mark, denials(peer));
    put(cells.address, (peer.addresses[0] ?? "–").replace(/\/\d+$/, ""));
    put(way, peer.way === "none" ? "none" : peer.way.toUpperCase());
    way.dataset.way = peer.connected ? peer.way : "silent";
    put(cells.trip, trip(peer));
    put(cells.handshake, heard(peer));
    put(cells.in, rate(peer.down));
    put(cells.out, rate(peer.up));
    put(cells.endpoint, peer.endpoint ?? "–");
  }
}
