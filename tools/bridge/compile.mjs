// Compiles the contracts of this folder with the pinned compiler and prints one JSON object: name to ABI and bytecode.
// Usage: node compile.mjs FOLDER_OF_NODE_MODULES
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(join(resolve(process.argv[2]), "paceline-bridge.js"));
const solc = require("solc");
const names = ["PacelineBridge", "TestDollar"];
const sources = Object.fromEntries(
  names.map((name) => [`${name}.sol`, { content: readFileSync(join(here, `${name}.sol`), "utf8") }]),
);
const settings = {
  optimizer: { enabled: true, runs: 200 },
  evmVersion: "paris",
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
};
const output = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings })));
const problems = output.errors ?? [];
for (const problem of problems) console.error(problem.formattedMessage);
if (problems.length > 0) process.exit(1);
const found = Object.fromEntries(
  names.map((name) => {
    const contract = output.contracts[`${name}.sol`][name];
    return [name, { abi: contract.abi, bytecode: contract.evm.bytecode.object }];
  }),
);
console.log(JSON.stringify(found));
