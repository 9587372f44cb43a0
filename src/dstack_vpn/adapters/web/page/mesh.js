// The mesh of this node: the node in the centre, its peers around it, traffic as sparks along the lines.
//
// There are two canvases. The static parts are drawn only after a change. The moving parts are drawn in every frame,
// with fewer pixels: a thousand peers on a large screen need no graphics processor. Nothing moves with
// prefers-reduced-motion.

import { ago, denials, rate } from "./text.js";

const SPARKS = 260; // the maximum at once
const STILL = 8e6, MOVING = 1e6; // pixels
const GOLDEN = Math.PI * (3 - Math.sqrt(5));
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Mesh {
  frames = 0;
  #canvas; #context; #back = document.createElement("canvas"); #model; #open; #empty = true;
  #places = []; #layout = -1; #stale = true; #colours = {}; #size = { w: 0, h: 0, dpr: 1, moving: 1, em: 1 };
  #chosen = null; #hover = null; #sparks = []; #shown = true; #flashes = new Map(); #last = 0; #debt = 0;

  constructor(canvas, model, open) {
    this.#canvas = canvas; this.#context = canvas.getContext("2d"); this.#model = model; this.#open = open;
    this.#back.setAttribute("aria-hidden", "true");
    canvas.before(this.#back);
    new ResizeObserver(() => this.resize()).observe(canvas);
    new IntersectionObserver(([seen]) => { this.#shown = seen.isIntersecting; }).observe(canvas);
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", () => this.#hint(null));
    canvas.addEventListener("click", (event) => { this.#point(event); if (this.#hover) this.#open(this.#hover.peer); });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => { this.#chosen = null; this.#hint(null); this.#stale = true; });
    this.recolour();
    requestAnimationFrame((now) => this.#frame(now));
  }

  /** Read the colours again after a change of theme. */
  recolour() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["bg", "panel", "line", "text", "dim", "accent", "good", "bad", "udp", "tcp", "tls", "silent"]) {
      this.#colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
    this.#stale = true;
  }

  resize() {
    const { width: w, height: h } = this.#canvas.getBoundingClientRect();
    if (!w || !h) return;
    const fitting = (pixels) => Math.min(devicePixelRatio || 1, Math.sqrt(pixels / (w * h)));
    const dpr = fitting(STILL), moving = fitting(MOVING);
    const em = parseFloat(getComputedStyle(document.documentElement).fontSize) / 15; // scales text with the page's font size
    this.#size = { w, h, dpr, moving, em };
    for (const [canvas, scale] of [[this.#back, dpr], [this.#canvas, moving]]) { canvas.width = Math.round(w * scale); canvas.height = Math.round(h * scale); }
    this.#layout = -1; this.#stale = true;
  }

  /** Show new statistics. */
  update() {
    if (this.#layout !== this.#model.changed) this.#place();
    const peers = this.#model.byName;
    for (const place of this.#places) place.peer = peers.get(place.peer.public_key) ?? place.peer;
    const { stats } = this.#model;
    const connected = this.#model.peers.filter((peer) => peer.connected).length;
    this.#canvas.setAttribute("aria-label", `Mesh: ${stats?.node_id ?? "this node"} with ${this.#places.length} peers, ${connected} with a session, ${this.#model.peers.filter((peer) => peer.silent).length} without an answer`);
    this.#stale = true;
  }

  /** Highlight a peer after an event. */
  flash(key, kind) { this.#flashes.set(key, { at: performance.now(), kind }); }

  // -- layout ----------------------------------------------------------------------------------------

  #place() {
    const { w, h, em } = this.#size;
    if (!w) return;
    this.#layout = this.#model.changed;
    const peers = [...this.#model.peers].sort((a, b) => a.token - b.token);
    const count = peers.length, rx = w / 2 - 46 * em, ry = h / 2 - 34 * em;
    const rings = count <= 14;
    this.#places = peers.map((peer, index) => {
      // Few peers form a ring, many a sunflower's spiral; both are elliptic, to use the available space.
      const angle = rings ? (index / count) * 2 * Math.PI - Math.PI / 2 + 0.35 : index * GOLDEN;
      const reach = rings ? 0.82 : 0.3 + 0.7 * Math.sqrt((index + 0.5) / count);
      return { peer, x: w / 2 + Math.cos(angle) * rx * reach, y: h / 2 + Math.sin(angle) * ry * reach };
    });
  }

  #radius() {
    const count = this.#places.length, base = Math.min(this.#size.w, this.#size.h);
    return Math.max(2.4, Math.min(9 * this.#size.em, base / (6 + 3.2 * Math.sqrt(count) * 1.6)));
  }

  #colour(peer) { return peer.connected ? this.#colours[peer.way] ?? this.#colours.silent : this.#colours.silent; }

  // -- drawing ---------------------------------------------------------------------------------------

  #paintBack() {
    const g = this.#back.getContext("2d"), { w, h, dpr } = this.#size, cx = w / 2, cy = h / 2;
    const many = this.#places.length > 80, radius = this.#radius();
    g.setTransform(dpr, 0, 0, dpr, 0, 0);
    g.clearRect(0, 0, w, h);
    g.save(); g.translate(cx, cy); g.scale(w / 2, h / 2);
    const glow = g.createRadialGradient(0, 0, 0, 0, 0, 1);
    glow.addColorStop(0, this.#colours.accent + "22"); glow.addColorStop(1, this.#colours.accent + "00");
    g.fillStyle = glow; g.fillRect(-1, -1, 2, 2); g.restore();
    // Lines by colour and freshness, each group in one stroke.
    const groups = new Map();
    for (const place of this.#places) {
      const level = place.peer.connected ? 1 + Math.round(place.peer.fresh * 3) : 0;
      // A tenfold rate makes a line a little wider.
      const load = Math.min(3, Math.max(0, Math.floor(Math.log10(1 + place.peer.down + place.peer.up) - 2)));
      const dash = place.peer.connected && (place.peer.way === "tcp" || place.peer.way === "tls") ? "dash" : "";
      const key = `${this.#colour(place.peer)} ${level} ${load} ${dash}`;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(place);
    }
    for (const [key, places] of groups) {
      const [colour, level, load, dash] = key.split(" ");
      g.beginPath();
      for (const { x, y } of places) { g.moveTo(cx, cy); g.lineTo(x, y); }
      g.strokeStyle = colour; g.lineWidth = many ? 0.7 + 0.35 * load : 1.3 + 0.8 * load; g.setLineDash(dash ? [6, 5] : level === "0" ? [2, 5] : []);
      g.globalAlpha = (many ? 0.07 : 0.2) + (many ? 0.06 : 0.13) * Number(level);
      g.stroke();
    }
    g.setLineDash([]); g.globalAlpha = 1;
    for (const { peer, x, y } of this.#places) {
      g.beginPath(); g.arc(x, y, radius, 0, 2 * Math.PI);
      if (peer.connected) {
        g.fillStyle = this.#colour(peer); g.globalAlpha = 0.5 + 0.5 * peer.fresh; g.fill(); g.globalAlpha = 1;
      } else {
        g.fillStyle = this.#colours.panel; g.fill();
        g.strokeStyle = peer.silent ? this.#colours.bad : this.#colours.silent; g.lineWidth = Math.max(1.2, radius * 0.28); g.stroke();
      }
      if (peer.denied.length) this.#cross(g, x, y, radius);
    }
    this.#paintLabels(g, radius);
    const { em } = this.#size;
    g.beginPath(); g.arc(cx, cy, 17 * em, 0, 2 * Math.PI); g.fillStyle = this.#colours.panel; g.fill();
    g.beginPath(); g.arc(cx, cy, 13 * em, 0, 2 * Math.PI); g.fillStyle = this.#colours.accent; g.fill();
    this.#label(g, this.#model.stats?.node_id ?? "this node", cx, cy + 34 * em, 650);
    this.#stale = false;
  }

  /** Mark a peer whose packets were denied. */
  #cross(g, x, y, radius) {
    const reach = radius + 3 * this.#size.em;
    g.strokeStyle = this.#colours.bad; g.lineWidth = 2;
    g.beginPath();
    for (const way of [1, -1]) { g.moveTo(x - reach, y - way * reach); g.lineTo(x + reach, y + way * reach); }
    g.stroke();
  }

  #paintLabels(g, radius) {
    if (this.#places.length > 60) return;
    const { em } = this.#size;
    const taken = [{ x: this.#size.w / 2, y: this.#size.h / 2 + 34 * em, half: 50 * em }];
    for (const { peer, x, y } of this.#places) {
      const below = y >= this.#size.h / 2, at = below ? y + radius + 15 * em : y - radius - 8 * em;
      const half = (4 + 3.8 * Math.min(peer.name.length, 18)) * em;
      // A name without space is left out; the tooltip shows it.
      if (taken.some((other) => Math.abs(other.y - at) < 15 * em && Math.abs(other.x - x) < other.half + half)) continue;
      taken.push({ x, y: at, half });
      this.#label(g, peer.name.length > 18 ? `${peer.name.slice(0, 17)}…` : peer.name, x, at, 500);
    }
  }

  #label(g, text, x, y, weight) {
    g.font = `${weight} ${13 * this.#size.em}px system-ui, "DejaVu Sans", sans-serif`;
    g.textAlign = "center";
    const half = g.measureText(text).width / 2 + 4;
    const at = Math.min(Math.max(x, half), this.#size.w - half);
    g.lineWidth = 4; g.lineJoin = "round"; g.strokeStyle = this.#colours.panel; g.strokeText(text, at, y);
    g.fillStyle = this.#colours.text; g.fillText(text, at, y);
  }

  #frame(now) {
    requestAnimationFrame((next) => this.#frame(next));
    if (!this.#shown || !this.#size.w || document.hidden) return;
    if (this.#layout !== this.#model.changed) this.update();
    if (this.#stale) this.#paintBack();
    const seconds = Math.min((now - this.#last) / 1000, 0.1), chosen = [this.#hover, this.#chosen].filter(Boolean);
    this.#last = now;
    this.frames += 1;
    if (!still.matches) this.#moveSparks(seconds);
    const nothing = !this.#sparks.length && !this.#flashes.size && !chosen.length;
    if (nothing && this.#empty) return;
    const g = this.#context, { w, h, moving } = this.#size;
    g.setTransform(moving, 0, 0, moving, 0, 0);
    g.clearRect(0, 0, w, h);
    this.#empty = nothing;
    this.#paintSparks(g, w / 2, h / 2);
    this.#paintFlashes(g, now);
    for (const place of chosen) this.#ring(g, place);
  }

  #moveSparks(seconds) {
    const busy = this.#places.filter(({ peer }) => peer.connected && peer.down + peer.up > 1);
    this.#debt += seconds * Math.min(busy.length * 1.6, 140);
    while (this.#debt >= 1 && this.#sparks.length < SPARKS && busy.length) {
      this.#debt -= 1;
      const place = busy[Math.floor(Math.random() * busy.length)];
      const inward = Math.random() * (place.peer.down + place.peer.up) < place.peer.down;
      const size = this.#size.em * Math.min(1.3 + Math.log10(1 + place.peer.down + place.peer.up) * 0.28, 3.6);
      this.#sparks.push({ place, inward, at: 0, speed: 0.55 + Math.random() * 0.5, size });
    }
    if (!busy.length) this.#debt = 0;
    this.#sparks = this.#sparks.filter((spark) => (spark.at += spark.speed * seconds) < 1);
  }

  #paintSparks(g, cx, cy) {
    for (const { place, inward, at, size } of this.#sparks) {
      const way = inward ? 1 - at : at;
      g.globalAlpha = Math.sin(at * Math.PI);
      g.fillStyle = this.#colour(place.peer);
      g.beginPath(); g.arc(cx + (place.x - cx) * way, cy + (place.y - cy) * way, size, 0, 2 * Math.PI); g.fill();
    }
    g.globalAlpha = 1;
  }

  #paintFlashes(g, now) {
    const length = still.matches ? 400 : 1600;
    for (const [key, { at, kind }] of this.#flashes) {
      const part = (now - at) / length;
      const place = this.#places.find(({ peer }) => peer.public_key === key);
      if (part >= 1) { this.#flashes.delete(key); this.#stale = true; continue; }
      if (!place || part < 0) continue;
      g.globalAlpha = 1 - part; g.strokeStyle = this.#colours[kind]; g.lineWidth = 2.5;
      g.beginPath(); g.arc(place.x, place.y, this.#radius() + 4 + part * 26, 0, 2 * Math.PI); g.stroke();
    }
    g.globalAlpha = 1;
  }

  #ring(g, { x, y }) {
    g.strokeStyle = this.#colours.text; g.lineWidth = 2;
    g.beginPath(); g.arc(x, y, this.#radius() + 4, 0, 2 * Math.PI); g.stroke();
  }

  // -- input -----------------------------------------------------------------------------------------

  #nearest(x, y) {
    let best = null, distance = 18 ** 2;
    for (const place of this.#places) {
      const d = (place.x - x) ** 2 + (place.y - y) ** 2;
      if (d < distance) { best = place; distance = d; }
    }
    return best;
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    this.#hint(this.#nearest(event.clientX - box.left, event.clientY - box.top));
  }

  #hint(place) {
    if (place === this.#hover) return;
    this.#hover = place;
    this.#stale = true;
    this.#canvas.style.cursor = place ? "pointer" : "default";
    const tip = document.getElementById("mesh-tip");
    tip.hidden = !place;
    if (!place) return;
    tip.textContent = this.#words(place.peer);
    const { w, h } = this.#size;
    tip.style.left = place.x > w / 2 ? "" : `${place.x + 14}px`;
    tip.style.right = place.x > w / 2 ? `${w - place.x + 14}px` : "";
    tip.style.top = place.y > h / 2 ? "" : `${place.y}px`;
    tip.style.bottom = place.y > h / 2 ? `${h - place.y}px` : "";
  }

  #words(peer) {
    const session = peer.silent ? "no answer" : peer.age === null ? "never had a session" : `handshake ${ago(peer.age)}`;
    return `${peer.name}\n${peer.way === "none" ? "no path" : peer.way.toUpperCase()}, ${session}\n↓ ${rate(peer.down)}  ↑ ${rate(peer.up)}${peer.denied.length ? `\n${denials(peer)} in the last minute` : ""}`;
  }

  #key(event) {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key === "Enter" && this.#chosen) return this.#open(this.#chosen.peer);
    if (!(event.key in steps) || !this.#places.length) return;
    event.preventDefault();
    const now = this.#places.findIndex(({ peer }) => peer.public_key === this.#chosen?.peer.public_key);
    const next = now < 0 ? 0 : (now + steps[event.key] + this.#places.length) % this.#places.length;
    this.#chosen = this.#places[next];
    this.#hint(this.#chosen);
    document.getElementById("mesh-said").textContent = this.#words(this.#chosen.peer);
  }
}
