// Checks the size of what every visit loads, and lays a gzip copy beside each text file.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const SCRIPT_BYTES_MAX = 300_000;
const assets = new URL('../dist/app/assets/', import.meta.url);
// What the page's own script imports without being asked; the rest (a terminal, a machine's screen, the other language,
// the larger pages) is loaded when opened.
const text = (name) => readFileSync(new URL(name, assets), 'utf8');
const page = readFileSync(new URL('../index.html', assets), 'utf8');
const first = new Set();
const walk = (name) => {
  if (first.has(name)) return;
  first.add(name);
  for (const [, next] of text(name).matchAll(/(?:from|import)\s*"\.\/([^"]+\.js)"/g)) walk(next);
};
for (const [, name] of page.matchAll(/assets\/([^"]+\.js)/g)) walk(name);
let all = 0;
for (const name of readdirSync(assets)) {
  const bytes = readFileSync(new URL(name, assets));
  if (name.endsWith('.js')) all += bytes.length;
  if (/\.(js|css|svg)$/.test(name)) writeFileSync(new URL(`${name}.gz`, assets), gzipSync(bytes, { level: 9 }));
}
const scripts = [...first].reduce((sum, name) => sum + text(name).length, 0);
console.log(`scripts of a visit: ${scripts} bytes of ${SCRIPT_BYTES_MAX}, ${all} with all that is loaded when opened`);
if (first.size === 0 || scripts > SCRIPT_BYTES_MAX) process.exit(1);
