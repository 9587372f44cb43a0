// The registry's own state: its roles, tags and policy. Data from the chain is only ever set as text.

import { make } from "./text.js";

const CHANGES = new Set(["chain.tag", "chain.policy", "chain.policy_read", "chain.role", "chain.paused", "chain.read", "chain.events", "chain.reorg"]);

/** Return whether an event may have changed the registry's own state. */
export const changes = (kind) => CHANGES.has(kind);

export function showRegistry(contract) {
  const { roles, policy } = contract;
  const facts = [
    ["Owner", roles.owner],
    ["Offered to", roles.pending_owner],
    ["Minters", roles.minters.join("\n")],
    ["Policy administrators", roles.policy_administrators.join("\n")],
    ["Minting", contract.paused ? "paused" : null],
    ["Tags", contract.tags.map((name, index) => name ?? `#${index}`).join(", ")],
    ["Policy", policy && `${policy.hash}, since block ${policy.block}`],
    ["Text", policy?.text ?? (policy && "not read yet")],
  ].filter(([, value]) => value);
  document.getElementById("registry").hidden = !contract.known;
  document.getElementById("registry-facts").replaceChildren(...facts.flatMap(([name, text]) => [make("dt", { text: name }), make("dd", { text })]));
}
