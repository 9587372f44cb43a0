// The page's data: the latest statistics, the rates between two readings, and the events.

import { SESSION, attempt, plain } from "./text.js";

const KEPT = 400;
const LEAST = 0.8; // seconds between two readings from which a rate is computed

/** Return the denied attempts of the last minute by source address. */
function attempts(policy) {
  const found = new Map();
  for (const each of policy?.recent ?? []) found.set(each.source, [...(found.get(each.source) ?? []), attempt(each)]);
  return found;
}

export class Model {
  stats = null;
  peers = []; // each with `name`, `denied` (its denied attempts, such as "tcp:22"), `age` (seconds or null), `fresh` (0..1), `way`, `down` and `up` (bytes a second)
  byName = new Map();
  events = []; // newest first
  policy = null; // the policies in force, and what they denied in the last minute
  changed = 0; // counts the changes of membership; the mesh computes its layout again after each
  #before = new Map();
  #ids = new Set();

  take(stats, policy) {
    const denied = attempts(policy);
    const before = this.#before;
    this.#before = new Map();
    const names = new Set(this.byName.keys());
    this.byName = new Map();
    const read = stats.device_read ?? stats.now;
    this.peers = stats.peers.map((raw) => {
      const last = before.get(raw.public_key);
      const seconds = last ? read - last.read : 0;
      const per = (now, then) => (seconds > 0 && now >= then ? (now - then) / seconds : 0);
      const quiet = last && seconds < LEAST; // no new reading of the device yet, or too soon after the last
      const down = quiet ? last.down : last ? per(raw.rx_bytes ?? 0, last.rx) : 0;
      const up = quiet ? last.up : last ? per(raw.tx_bytes ?? 0, last.tx) : 0;
      const age = raw.last_handshake === null ? null : Math.max(stats.now - raw.last_handshake, 0);
      const fresh = age === null ? 0 : Math.max(0, 1 - age / SESSION);
      const name = raw.node_id ?? `token ${raw.token}`;
      const peer = { ...raw, name, age, fresh, connected: raw.state === "connected", silent: raw.state === "no answer", way: raw.transport ?? "none", down, up, denied: [...new Set(raw.addresses.flatMap((address) => denied.get(plain(address)) ?? []))] };
      this.#before.set(raw.public_key, quiet ? last : { read, rx: raw.rx_bytes ?? 0, tx: raw.tx_bytes ?? 0, down, up });
      this.byName.set(raw.public_key, peer);
      return peer;
    });
    if (names.size !== this.byName.size || this.peers.some((peer) => !names.has(peer.public_key))) this.changed += 1;
    this.stats = stats;
    this.policy = policy;
  }

  /** Add an event; return false if it is already known. */
  add(event) {
    if (this.#ids.has(event.id)) return false;
    this.#ids.add(event.id);
    this.events.unshift(event);
    for (const gone of this.events.splice(KEPT)) this.#ids.delete(gone.id);
    return true;
  }

  sum(what) {
    return this.peers.reduce((total, peer) => total + peer[what], 0);
  }
}
