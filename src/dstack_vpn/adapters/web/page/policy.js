// The policies in force on this node, and what they permitted and denied. Their texts are only ever set as text.

import { attempt, bytes, make, plural, setText } from "./text.js";

const counted = ({ packets, bytes: size }) => `${plural(packets, "packet")}, ${bytes(size)}`;

let shown = "";

export function showPolicy(policy) {
  const text = JSON.stringify(policy);
  if (text === shown) return;
  shown = text;
  const { in_force: all, refused, warning, enforced, granted, denied, recent } = policy;
  document.getElementById("policy").hidden = all === null && !refused && !warning;
  const state = all === null ? "not in force" : !enforced ? "not enforced yet" : all.length ? "enforced" : "nothing is permitted";
  setText("policy-state", denied.packets ? `${state}, ${plural(denied.packets, "packet")} denied` : state);
  const facts = [
    ["Refused", refused],
    ["Warning", warning],
    ["Enforced", all === null ? null : enforced ? "yes" : "not yet: the packet filter does not have the newest rules"],
    ["In force", all?.length === 0 ? "nothing is permitted until a policy is confirmed" : null],
    ...(all ?? []).flatMap((each) => [
      [each.source === "file" ? "POLICY_FILE" : `Policy ${each.id}`, plural(each.grants, "grant")],
      ["Text", each.text],
    ]),
    ...granted.map((each) => [`Grant ${each.grant} of ${each.policy}`, counted(each)]),
    ["Denied", all === null ? null : counted(denied)],
    ["Last minute", recent.map((each) => `${each.node ?? each.source}: ${attempt(each)} of ${each.destination}, ${plural(each.packets, "packet")}`).join("\n")],
  ].filter(([, value]) => value);
  document.getElementById("policy-facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
}
