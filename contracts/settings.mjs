// The compiler's settings, and where its imports are.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const HERE = dirname(fileURLToPath(import.meta.url));

export const SETTINGS = {
  optimizer: { enabled: true, runs: 200 },
  viaIR: false,
  // All current rollups and test chains support it.
  evmVersion: "cancun",
  metadata: { bytecodeHash: "none" },
};

/** Return the content of an import: of a package, or relative to this directory. */
export function findImport(path) {
  const local = path.startsWith("@") ? join(HERE, "node_modules", path) : join(HERE, path);
  try {
    return { contents: readFileSync(local, "utf8") };
  } catch {
    return { error: `${path} not found; run "npm ci" in contracts/ first` };
  }
}
