// Checks the size of what every visit loads, and lays a gzip copy beside each text file.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const SCRIPT_BYTES_MAX = 300_000;
const assets = new URL('../dist/app/assets/', import.meta.url);
// Loaded when opened: the terminal; the other language.
const later = /^(Terminal|zh)/;
let scripts = 0;
for (const name of readdirSync(assets)) {
  const bytes = readFileSync(new URL(name, assets));
  if (name.endsWith('.js') && !later.test(name)) scripts += bytes.length;
  if (/\.(js|css|svg)$/.test(name)) writeFileSync(new URL(`${name}.gz`, assets), gzipSync(bytes, { level: 9 }));
}
console.log(`scripts before the terminal: ${scripts} bytes of ${SCRIPT_BYTES_MAX}`);
if (scripts > SCRIPT_BYTES_MAX) process.exit(1);
