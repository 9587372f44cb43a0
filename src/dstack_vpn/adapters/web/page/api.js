// The client of the daemon's API: documents and the stream of events. This tab's session storage keeps the token.

const KEY = "dstack-vpn.token";

export class Refused extends Error {}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => sessionStorage.setItem(KEY, text),
};

function headers(more = {}) {
  const known = token.get();
  return known ? { ...more, Authorization: `Bearer ${known}` } : more;
}

async function ask(path, options = {}) {
  const reply = await fetch(path, { cache: "no-store", credentials: "omit", ...options, headers: headers(options.headers) });
  if (reply.status === 401) throw new Refused(token.get() ? "This token is wrong." : "");
  return reply;
}

/** Return a document, or null if it does not exist. `/health` also has a body with status 503. */
export async function get(path) {
  const reply = await ask(path, { signal: AbortSignal.timeout(10_000) });
  if (reply.status === 404) return null;
  if (!reply.ok && reply.status !== 503) throw new Error(`${path}: ${reply.status}`);
  return reply.json();
}

/** Return a parser of server-sent events that accepts the text in pieces of any size. */
export function parser(take) {
  let rest = "";
  return (text) => {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = { id: "", event: "message", data: "" };
      for (const line of block.split("\n")) {
        const cut = line.indexOf(":");
        if (cut <= 0) continue;
        const name = line.slice(0, cut);
        if (name in found) found[name] = line.slice(cut + 1).replace(/^ /, "");
      }
      if (found.data) take(found);
    }
  };
}

/** Follow `/events` permanently, and continue after an interruption. EventSource can't send the token. */
export async function follow({ backlog, onEvent, onState, onRefused }) {
  let last = "", pause = 500;
  for (;;) {
    try {
      const more = last ? { "Last-Event-ID": last } : {};
      const reply = await ask(`events${last ? "" : `?backlog=${backlog}`}`, { headers: more });
      if (!reply.ok || !reply.body) throw new Error(`events: ${reply.status}`);
      onState(true);
      pause = 500;
      const take = parser((message) => {
        last = message.id || last;
        onEvent(message.event, { id: message.id, ...JSON.parse(message.data) });
      });
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        take(value);
      }
    } catch (error) {
      if (error instanceof Refused) {
        onState(false);
        await onRefused(error.message);
        continue;
      }
    }
    onState(false);
    await new Promise((wake) => setTimeout(wake, pause));
    pause = Math.min(pause * 2, 15_000);
  }
}
