// Compile the contracts into the artifacts in the repository, so that users need no compiler.
//
//   node build.mjs           write the artifacts
//   node build.mjs --check   recompile and compare; exits 1 if an artifact is stale
//
// All inputs of the output are pinned (package-lock.json, the settings below). The bytecode has
// neither paths of this machine nor a metadata hash: the same sources give the same bytes anywhere.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import sha3 from "js-sha3";
import solc from "solc";
import { HERE, SETTINGS, findImport } from "./settings.mjs";

const ROOT = join(HERE, "..");

const TARGETS = [
  {
    source: "src/AccessRegistry.sol",
    contract: "AccessRegistry",
    interfaceOf: { source: "src/IAccessRegistry.sol", contract: "IAccessRegistry" },
    out: "src/dstack_vpn/adapters/contracts/artifacts/AccessRegistry.json",
  },
  {
    source: "test-src/v1/AccessRegistry.sol",
    contract: "AccessRegistry",
    interfaceOf: { source: "test-src/v1/IAccessRegistry.sol", contract: "IAccessRegistry" },
    out: "tests/contracts/artifacts/AccessRegistryV1.json",
  },
  { source: "test-src/DstackAccessNFT.sol", contract: "DstackAccessNFT", out: "tests/contracts/artifacts/DstackAccessNFT.json" },
  { source: "test-src/ContractSigner.sol", contract: "ContractSigner", out: "tests/contracts/artifacts/ContractSigner.json" },
  { source: "test-src/Multicall3.sol", contract: "Multicall3", out: "tests/contracts/artifacts/Multicall3.json" },
];

function compile() {
  const sources = Object.fromEntries(
    TARGETS.map(({ source }) => [source, { content: readFileSync(join(HERE, source), "utf8") }]),
  );
  const outputSelection = { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "evm.methodIdentifiers"] } };
  const input = { language: "Solidity", sources, settings: { ...SETTINGS, outputSelection } };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
  const problems = output.errors ?? [];
  for (const problem of problems) console.error(problem.formattedMessage);
  // A warning fails the build as well.
  if (problems.length > 0) process.exit(1);
  return output.contracts;
}

const canonicalType = ({ type, components }) =>
  type.startsWith("tuple") ? `(${components.map(canonicalType).join(",")})${type.slice("tuple".length)}` : type;

const signature = (item) => `${item.name}(${item.inputs.map(canonicalType).join(",")})`;

function hashed(abi, kind, hexDigits) {
  const signatures = abi.filter((item) => item.type === kind).map(signature).sort();
  return Object.fromEntries(signatures.map((text) => [text, `0x${sha3.keccak256(text).slice(0, hexDigits)}`]));
}

/** Return an interface's id (ERC-165): the exclusive or of its selectors. */
function interfaceId({ evm }) {
  const id = Object.values(evm.methodIdentifiers).reduce((sum, selector) => sum ^ parseInt(selector, 16), 0);
  return `0x${(id >>> 0).toString(16).padStart(8, "0")}`;
}

function artifact(contracts, { source, contract, interfaceOf }) {
  const { abi, evm } = contracts[source][contract];
  return {
    contract,
    source: `contracts/${source}`,
    compiler: { solc: solc.version(), settings: SETTINGS },
    ...(interfaceOf && { interfaceId: interfaceId(contracts[interfaceOf.source][interfaceOf.contract]) }),
    functions: hashed(abi, "function", 8),
    events: hashed(abi, "event", 64),
    errors: hashed(abi, "error", 8),
    runtimeBytes: evm.deployedBytecode.object.length / 2,
    abi,
    bytecode: `0x${evm.bytecode.object}`,
  };
}

function current(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

const check = process.argv.includes("--check");
const contracts = compile();
let stale = 0;
for (const target of TARGETS) {
  const path = join(ROOT, target.out);
  const text = `${JSON.stringify(artifact(contracts, target), null, 2)}\n`;
  if (!check) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    console.log(`wrote ${relative(ROOT, path)}`);
  } else if (current(path) !== text) {
    stale += 1;
    console.error(`${target.out} does not match its sources: run "node build.mjs" in contracts/ and commit the result`);
  }
}
process.exit(stale > 0 ? 1 : 0);
