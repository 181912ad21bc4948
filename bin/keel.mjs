#!/usr/bin/env node
import { existsSync } from "node:fs";

const main = new URL("../dist/cli/main.js", import.meta.url);
const addon = new URL("../build/Release/keel.node", import.meta.url);

if (existsSync(main) && existsSync(addon)) {
  await import(main.href);
} else {
  console.error("keel is not built here yet; remedy: npm install");
  process.exitCode = 1;
}
