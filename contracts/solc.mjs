#!/usr/bin/env node
// The pinned compiler with the command line of solc, as far as Slither calls it:
//
//   solc.mjs --version
//   solc.mjs --standard-json [...] < input > output
//
// The settings are those of build.mjs, so that what is analysed is what is deployed.

import { readFileSync } from "node:fs";
import solc from "solc";
import { SETTINGS, findImport } from "./settings.mjs";

if (process.argv.includes("--version")) {
  console.log(`Version: ${solc.version()}`);
} else {
  const input = JSON.parse(readFileSync(0, "utf8"));
  const settings = { ...input.settings, ...SETTINGS };
  process.stdout.write(solc.compile(JSON.stringify({ ...input, settings }), { import: findImport }));
}
