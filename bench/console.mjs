// The engine's share of a core with one page listening, and what lists and the event stream cost. See console.sh.

import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import { connect } from 'node:tls';
import { Engine, until } from '../tests/console/engine.mjs';

const [count, seconds] = process.argv.slice(2).map(Number);
const TICKS = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));
const median = (all) => all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)];

const engine = await Engine.start();
const agent = new Agent({ keepAlive: true, maxSockets: 4, rejectUnauthorized: false });
const secret = await engine.token();

function ask(method, path, value) {
  return new Promise((resolve, reject) => {
    const body = value === undefined ? undefined : JSON.stringify(value);
    const headers = { authorization: `Bearer ${secret}`, ...(body ? { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) } : {}) };
    const begun = performance.now();
    const sent = request(`${engine.url}/api/v1${path}`, { method, agent, headers }, (answer) => {
      const parts = [];
      answer.on('data', (part) => parts.push(part));
      answer.on('end', () => {
        const bytes = Buffer.concat(parts);
        const took = performance.now() - begun;
        if (answer.statusCode !== 200) return reject(new Error(`${method} ${path}: ${bytes}`));
        resolve({ millis: took, bytes: bytes.length, value: JSON.parse(bytes) });
      });
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

/** Bytes and messages of the event stream, as a page gets it. */
function listen() {
  const seen = { bytes: 0, kinds: {} };
  const socket = connect({ host: '127.0.0.1', port: engine.port, rejectUnauthorized: false }, () => socket.write(
    `GET /api/v1/events HTTP/1.1\r\nhost: 127.0.0.1:${engine.port}\r\nauthorization: Bearer ${secret}\r\nconnection: upgrade\r\nupgrade: websocket\r\n`
    + `sec-websocket-version: 13\r\nsec-websocket-key: ${randomBytes(16).toString('base64')}\r\n\r\n`));
  let rest = '';
  socket.on('data', (part) => {
    seen.bytes += part.length;
    const text = rest + part.toString('latin1');
    let end = 0;
    for (const found of text.matchAll(/\{"type":"(\w+)"/g)) {
      seen.kinds[found[1]] = (seen.kinds[found[1]] ?? 0) + 1;
      end = found.index + found[0].length;
    }
    rest = text.slice(Math.max(end, text.length - 30));
  });
  return { seen, close: () => socket.destroy() };
}

function usage() {
  const fields = readFileSync(`/proc/${engine.child.pid}/stat`, 'latin1').split(') ')[1].split(' ');
  const rss = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${engine.child.pid}/status`, 'utf8'))[1]) / 1024;
  return { cpu: (Number(fields[11]) + Number(fields[12])) / TICKS, rss, at: performance.now() };
}

async function share(what) {
  const before = usage();
  await sleep(seconds * 1000);
  const after = usage();
  const percent = 100 * (after.cpu - before.cpu) / ((after.at - before.at) / 1000);
  console.log(`${what.padEnd(52)} ${percent.toFixed(2).padStart(7)} % of a core   ${after.rss.toFixed(1)} MB`);
  return percent;
}

async function timed(path) {
  const all = [];
  let bytes = 0;
  for (let n = 0; n < 21; n += 1) {
    const answer = await ask('GET', path);
    all.push(answer.millis);
    bytes = answer.bytes;
  }
  console.log(`GET ${path.padEnd(48)} ${median(all).toFixed(1).padStart(7)} ms           ${(bytes / 1024).toFixed(0)} KiB`);
}

try {
  // Each writes to its log, uses processor and memory, and has a network: between two readings nothing stands still.
  const busy = ['sh', '-c', 'while :; do echo "tick $(date)"; dd if=/dev/zero of=/tmp/x bs=64k count=8 2>/dev/null; sleep 5; done'];
  const make = async (n) => ask('POST', '/instances', { name: `bench-${n}`, image: 'tiny', command: busy, memory_bytes: 64 << 20, start: true });
  for (let n = 0; n < count; n += 4) await Promise.all(Array.from({ length: Math.min(4, count - n) }, (_, more) => make(n + more)));
  await until('all run', async () => (await ask('GET', '/instances')).value.filter((one) => one.state === 'running').length === count);
  await sleep(5000);
  await share(`${count} instances, nobody listens`);
  const page = listen();
  await until('the stream speaks', () => page.seen.kinds.meters > 0);
  const [bytes, meters] = [page.seen.bytes, page.seen.kinds.meters];
  const percent = await share(`${count} instances, one page listens`);
  console.log(`event stream: ${((page.seen.bytes - bytes) / 1024 / seconds).toFixed(1)} KiB/s, ${page.seen.kinds.meters - meters} readings of all`);
  for (const path of ['/instances', '/overview', '/networks', '/summary']) await timed(path);
  // From a call to its effect on the stream.
  const effects = [];
  for (let n = 0; n < 11; n += 1) {
    const seen = page.seen.kinds.instances ?? 0;
    const begun = performance.now();
    await ask('POST', `/instances/bench-${n % count}/pause`, {});
    const answered = performance.now();
    while ((page.seen.kinds.instances ?? 0) === seen) await sleep(1);
    effects.push(performance.now() - answered);
    await ask('POST', `/instances/bench-${n % count}/unpause`, {});
    await sleep(150);
  }
  console.log(`from an answer to its row in the stream: ${median(effects).toFixed(0)} ms (target: under 100)`);
  // A storm: everything restarts at once.
  const before = usage();
  const storm = Math.min(100, count);
  const task = await ask('POST', '/instances/bulk', { ids: Array.from({ length: storm }, (_, n) => `bench-${n}`), action: 'kill' });
  await until('the storm is over', async () => (await ask('GET', `/tasks/${task.value.id}`)).value.state === 'done');
  console.log(`${storm} ends among ${count}: ${(1000 * (usage().cpu - before.cpu) / storm).toFixed(1)} ms of processor each`);
  page.close();
  console.log(`${percent < 3 ? 'met' : 'MISSED'}: under 3 % of a core with ${count} instances and one page`);
} finally {
  agent.destroy();
  await engine.clear();
}
