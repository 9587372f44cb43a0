// Text and formatting. Data from the chain is only ever set as text.

export const SESSION = 180; // seconds that a WireGuard session lasts

/** Return an element with text and children, without parsing markup. */
export function make(tag, { text, kind, href, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind !== undefined) element.className = kind;
  if (href !== undefined) element.setAttribute("href", href);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function setText(id, text) {
  const element = document.getElementById(id);
  if (element.textContent !== text) element.textContent = text;
}

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let unit = 0;
  while (count >= 999.5 && unit < UNITS.length - 1) { count /= 1000; unit += 1; }
  return `${unit === 0 || count >= 99.5 ? Math.round(count) : count.toFixed(1)} ${UNITS[unit]}`;
}

export const rate = (perSecond) => (perSecond < 0.5 ? "idle" : `${bytes(perSecond)}/s`);

export function span(seconds) {
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export const ago = (seconds) => (seconds < 1 ? "now" : `${span(seconds)} ago`);
export const heard = (peer) => (peer.silent ? "no answer" : peer.age === null ? "never" : ago(peer.age));
export const short = (text, length = 10) => (text && text.length > length + 1 ? `${text.slice(0, length)}…` : text ?? "");
export const milliseconds = (ms) => (ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : ms >= 100 ? `${Math.round(ms)} ms` : `${ms.toFixed(ms < 1 ? 2 : 1)} ms`);
/** Return the round trip to a peer; it is measured only while a role of the peer is asked for. */
export const trip = (peer) => ((peer.round_trip_ms ?? null) === null ? "–" : milliseconds(peer.round_trip_ms));
export const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });

/** Return an address without its prefix length. */
export const plain = (address) => address.replace(/\/\d+$/, "");
/** Return up to three of the denied attempts of a peer, in words. */
export const denials = ({ denied }) => (denied.length ? `denied ${denied.slice(0, 3).join(", ")}${denied.length > 3 ? ` and ${denied.length - 3} more` : ""}` : "");

export const nodeLink = (name) => `#/node/${encodeURIComponent(name)}`;

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** Return the protocol and port of denied packets as a policy names them. */
export const attempt = ({ protocol, port }) => (protocol === "tcp" || protocol === "udp" ? `${protocol}:${port}` : /^\d+$/.test(protocol) ? `protocol ${protocol}` : protocol);

const undone = (event) => (event.undone ? ", undone by a reorg" : " on chain");

/** Return the description of an event: its kind, which sets the colour, the node to link to, and the words. */
export function describe(event) {
  const who = event.node ?? (event.token === null || event.token === undefined ? null : `token ${event.token}`);
  switch (event.kind) {
    case "peer.set":
      return { kind: event.added ? "good" : "note", node: event.node, who, words: event.added ? "is a peer now" : "is reconfigured" };
    case "peer.removed":
      return { kind: "bad", node: event.node, who, words: `is removed: ${event.reason}` };
    case "peers.changed":
      return { kind: event.set ? "good" : "bad", words: `${event.set} peers set, ${event.removed} removed` };
    case "chain.event":
      return { kind: event.undone ? "warn" : "note", node: event.node, who: who ?? short(event.owner), words: `${event.event}${event.detail ? ` (${event.detail})` : ""}${undone(event)}` };
    case "chain.tag":
      return { kind: "note", words: `Tag ${event.tag} is defined${undone(event)}` };
    case "chain.policy":
      return { kind: event.undone ? "warn" : "note", words: `The policy is ${event.policy === null ? "removed" : "set"}${undone(event)}` };
    case "chain.policy_read":
      return { kind: "note", words: event.policy === null ? "There is no policy" : `The policy's text is read: ${event.bytes} bytes` };
    case "policy.in_force":
      return { kind: "note", words: { null: "No policy restricts connections", closed: "No policy is confirmed: nothing is permitted" }[event.policies] ?? `In force: policy ${event.policies}, ${plural(event.grants, "grant")}` };
    case "route.refused":
      return { kind: "warn", words: `A route of this node is not used: ${event.problem}` };
    case "policy.refused":
      return { kind: "bad", words: `The policy is refused: ${event.problem}` };
    case "policy.applied":
      return { kind: "good", words: `The policy is enforced: ${plural(event.members, "address", "addresses")} with rights here` };
    case "policy.denied":
      return { kind: "bad", node: event.node, who: event.node ?? event.source, words: `was denied ${attempt(event)} of ${event.destination}` };
    case "policy.denied_many":
      return { kind: "bad", words: `${event.entries} different attempts were denied` };
    case "chain.role":
      return { kind: event.undone ? "warn" : "note", words: `${short(event.account) || "no account"} is ${event.held ? "" : "no longer "}${event.role}${undone(event)}` };
    case "chain.paused":
      return { kind: "warn", words: `Minting is ${event.paused ? "paused" : "possible again"}${undone(event)}` };
    case "chain.invitation":
      return { kind: event.undone ? "warn" : "note", node: event.node, who, words: `invitation ${event.event}${undone(event)}` };
    case "access.decided":
      return { kind: "note", node: event.node, who, words: `${event.granted ? "has access" : "has no access"}: ${event.reason}` };
    case "access.decided_many":
      return { kind: "note", words: `${event.granted} nodes have access, ${event.refused} have no access` };
    case "chain.events":
      return { kind: "note", words: `${event.added} registry events, ${event.undone} undone` };
    case "chain.reorg":
      return { kind: "warn", words: `Reorg: ${event.depth} block${event.depth === 1 ? "" : "s"} replaced, ${event.dropped} events dropped` };
    case "chain.connected":
      return { kind: "good", words: `Following ${event.endpoint}` };
    case "chain.lost":
      return { kind: "bad", words: `No endpoint: ${event.problem}` };
    case "chain.read":
      return { kind: "note", words: `Registry read: ${event.tokens} tokens` };
    case "network.reached":
      return { kind: event.former ? "warn" : "good", node: event.node, words: `${event.network} is reached by ${event.node}${event.former ? ` instead of ${event.former}` : ""}` };
    case "network.left":
      return { kind: "bad", words: `${event.network} is not reached any more: ${event.reason}` };
    case "network.refused":
      return { kind: "warn", words: `${event.network} is not used: ${event.problem}` };
    case "peer.transport":
      return { kind: "warn", node: event.node, who, words: `is reached through ${event.way === "udp" ? "UDP" : "its relay"}` };
    case "peer.no_answer":
      return { kind: "bad", node: event.node, who, words: "does not answer" };
    case "peer.answered":
      return { kind: "good", node: event.node, who, words: "answers again" };
    case "peers.answering":
      return { kind: event.silent ? "bad" : "good", words: `${event.silent} peers do not answer, ${event.answering} answer again` };
    case "peer.refused":
      return { kind: "bad", who, words: `was refused by the device: ${event.problem}` };
    case "exit.used":
      return { kind: "good", words: `everything leaves by ${event.node}${event.former ? `, before by ${event.former}` : ""}` };
    case "exit.blocked":
      return { kind: "bad", words: `nothing leaves this machine: ${event.reason}` };
    case "token.refused":
      return { kind: "warn", who, words: `has an unusable ${event.field}: ${event.problem}` };
    case "plan.failed":
      return { kind: "bad", words: `A plan of ${event.steps} changes failed${event.rolled_back ? " and was rolled back" : ""}: ${event.problem}` };
    case "brake.engaged":
      return { kind: "bad", words: `${event.removals} of ${event.peers} removals held until the chain is read again` };
    case "brake.released":
      return { kind: "good", words: `${event.removals} removals confirmed` };
    case "brake.contradicted":
      return { kind: "bad", words: `${event.endpoint} contradicts ${event.peers} held removals` };
    case "rpc.budget":
      return { kind: "warn", words: `${event.calls} of ${event.budget} RPC calls of today were made${event.spent ? ": the budget is spent" : ""}` };
    case "early.unavailable":
      return { kind: "warn", words: `No early revocations by ${event.endpoint}: ${event.problem}` };
    case "early.false":
      return { kind: "warn", words: `The chain lacks a pre-confirmed event: ${plural(event.tokens, "token")} decided by the registry again` };
    case "chain.quarantined":
      return { kind: "bad", words: `${event.endpoint} is in quarantine: ${event.problem}` };
    case "config.pin":
      return { kind: "warn", words: event.peers === null ? "The pin is off" : `Pinned to ${event.peers} peers` };
    case "key.changed":
      return { kind: "good", words: `This node's key is now ${short(event.key, 12)}` };
    case "key.change_failed":
      return { kind: "warn", words: `This node's key could not be changed: ${event.problem}` };
    case "health.changed":
      return { kind: { ok: "good", warning: "warn", failed: "bad" }[event.status] ?? "note", words: `${event.component}: ${event.status}${event.reason ? `, ${event.reason}` : ""}` };
    default:
      return { kind: "note", words: event.kind };
  }
}

/** Return the details below a description. */
export function details(event) {
  const parts = [];
  if (event.block !== undefined && event.block !== null) parts.push(`block ${event.block}`);
  if (event.latency_ms !== undefined && event.latency_ms !== null) parts.push(milliseconds(event.latency_ms));
  if (event.peer) parts.push(short(event.peer, 12));
  return parts.join(" · ");
}

/** Return one entry of a feed. */
export function entry(event, { fresh = false, link = true } = {}) {
  const { kind, node, who, words } = describe(event);
  const sentence = make("p");
  if (who) sentence.append(node && link ? make("a", { text: who, href: nodeLink(node) }) : make("strong", { text: who }), " ");
  sentence.append(words);
  const stamp = make("time", { text: clock(event.at), datetime: new Date(event.at * 1000).toISOString() });
  const small = details(event);
  return make("li", { "data-kind": kind, kind: fresh ? "new" : "" }, make("i"), sentence, stamp, small ? make("small", { text: small }) : null);
}
