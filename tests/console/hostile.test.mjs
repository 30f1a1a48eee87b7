// The API against whoever means it ill: thousands of calls made from its own description, forged and expired keys,
// oversized bodies, sockets that close in the middle. BERTH_FUZZ: how many calls; BERTH_FUZZ_SEED: the same again.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { connect } from 'node:tls';
import { calls } from './calls.mjs';
import { Engine, missing, skipFor, until } from './engine.mjs';

skipFor(missing());

const CALLS = Number(process.env.BERTH_FUZZ ?? 1500);
const SEED = Number(process.env.BERTH_FUZZ_SEED ?? 20261128);
let engine;
let secret;
let ask;
let json;
let agent;

/** Small, and the same everywhere (mulberry32). */
function dice(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

before(async () => {
  engine = await Engine.start();
  secret = await engine.token();
  ({ ask, json, agent } = calls(engine, secret));
});

after(async () => {
  agent?.destroy();
  await engine?.clear();
});

test('calls made from the description get an answer in its words, and none breaks the engine', async () => {
  const roll = dice(SEED);
  const pick = (list) => list[Math.floor(roll() * list.length)];
  const description = JSON.parse((await ask('GET', '/openapi.json')).text);
  const ids = Object.values(description.paths).flatMap((path) => Object.values(path).map((one) => one.operationId).filter(Boolean));
  assert.equal(new Set(ids).size, ids.length, 'operation ids are unique');
  engine.berth('run', '-d', '--name', 'prey', 'tiny', 'sleep', '100000');
  engine.berth('volume', 'create', 'keep');
  const NASTY = ['', ' ', '../../etc/passwd', '/etc/shadow', '\u0000', 'a'.repeat(5000), '<script>alert(1)</script>', "'; drop table users; --", '$(reboot)', '-rf', '--privileged', '%00', '..%2f..', '\u202e', '💣', 'prey', 'keep', 'tiny', 'bridge', 'NaN', '1e999', '{{.}}', '\n\r\nx: y'];
  const number = () => pick([0, 1, -1, 5, 255, 65535, 65536, 2 ** 31, 2 ** 53, -(2 ** 53), 1.5, 1e308]);
  const resolved = (schema) => {
    if (schema.anyOf) return resolved(schema.anyOf[0]);
    return schema.$ref ? description.components.schemas[schema.$ref.split('/').pop()] : schema;
  };
  function value(given, depth = 0) {
    const schema = resolved(given);
    if (depth > 5) return null;
    if (roll() < 0.06) return pick([null, [], {}, 'x', 7, true, [[[]]]]);
    switch (schema.type) {
      case 'string': return pick(NASTY);
      case 'integer': return roll() < 0.8 ? Math.trunc(number()) : number();
      case 'number': return number();
      case 'boolean': return roll() < 0.5;
      case 'array': return Array.from({ length: Math.floor(roll() * 4) }, () => value(schema.items, depth + 1));
      case 'object': {
        const out = {};
        for (const [name, of] of Object.entries(schema.properties ?? {})) if (roll() < 0.6) out[name] = value(of, depth + 1);
        if (schema.additionalProperties) for (let n = 0; n < 2; n += 1) out[pick(NASTY)] = value(schema.additionalProperties, depth + 1);
        if (roll() < 0.05) out[pick(NASTY)] = 1;
        return out;
      }
      default: return pick([null, 1, 'x', {}]);
    }
  }
  // What would reach other hosts or the distribution's mirrors, ends the test's own key, or is a stream.
  const left = /\/(bootstrap|machine-kernels|pull|dial|oidc|terminal|follow|live|events|display|console)|^\/api\/v1\/(tokens|hosts|setup)|machines$/;
  const routes = Object.entries(description.paths).filter(([path]) => !left.test(path)).flatMap(([path, methods]) => Object.entries(methods).map(([method, about]) => ({ path, method, about })));
  assert.ok(routes.length > 60, `only ${routes.length} routes`);
  const counts = {};
  let done = 0;
  async function one() {
    const { path, method, about } = pick(routes);
    const filled = path.replace('/api/v1', '').replace(/\{\w+\}/g, () => encodeURIComponent(pick(NASTY) || 'x'));
    const query = roll() < 0.3 ? `?${pick(['path', 'force', 'tail', 'before', 'search', 'since', 'volumes'])}=${encodeURIComponent(pick(NASTY))}` : '';
    const schema = about.requestBody?.content?.['application/json']?.schema;
    let body = schema ? JSON.stringify(value(schema)) : undefined;
    if (body && roll() < 0.05) body = pick([body.slice(0, -1), '[', '{"a":', '\u0000', body + body, '['.repeat(2000)]);
    const headers = body === undefined ? {} : { 'content-type': roll() < 0.95 ? 'application/json' : 'text/plain' };
    const what = `${method.toUpperCase()} ${filled}${query} ${body ?? ''}`.slice(0, 400);
    const answer = await ask(method.toUpperCase(), filled + query, { body, headers });
    counts[answer.status] = (counts[answer.status] ?? 0) + 1;
    assert.ok(answer.status < 500 || [501, 503].includes(answer.status), `${answer.status} to ${what}: ${answer.text.slice(0, 300)}`);
    if (answer.status >= 400) {
      const failure = JSON.parse(answer.text);
      assert.ok(failure.kind && failure.message && Array.isArray(failure.causes), `${what}: ${answer.text}`);
    }
    assert.equal(answer.headers['x-content-type-options'], 'nosniff');
    done += 1;
  }
  for (let n = 0; n < CALLS; n += 8) await Promise.all(Array.from({ length: 8 }, one));
  console.log(`${done} calls, ${JSON.stringify(counts)}`);
  assert.ok((counts[200] ?? 0) > done / 20, 'some of it must do something');
  assert.ok(!/panicked/.test(engine.log), engine.log.split('\n').filter((line) => line.includes('panicked')).join('\n'));
  engine.berth('version');
  // Some of it frees space, or removes images: what follows needs one.
  engine.importTiny();
});

test('forged, cut, foreign and expired keys open nothing', async () => {
  const parts = secret.split('_');
  const flip = (text, at) => text.slice(0, at) + (text[at] === '0' ? '1' : '0') + text.slice(at + 1);
  const forged = ['', 'x', 'berth_', `berth_${parts[1]}_`, `berth_${parts[1]}`, `berth__${parts[2]}`, flip(secret, secret.length - 1), flip(secret, 8), secret.slice(0, -1), `${secret}0`, secret.toUpperCase()];
  for (const token of forged) assert.equal((await ask('GET', '/instances', { token: null, headers: { authorization: `Bearer ${token}` } })).status, 401, JSON.stringify(token));
  for (const scheme of ['Basic', 'bearer', 'Token']) assert.equal((await ask('GET', '/instances', { token: null, headers: { authorization: `${scheme} ${secret}` } })).status, 401, scheme);
  for (const cookie of ['__Host-berth=', '__Host-berth=0', `__Host-berth=${secret}`, `__Host-berth=${randomBytes(32).toString('hex')}`, `berth=${secret}`]) {
    assert.equal((await ask('GET', '/instances', { token: null, headers: { cookie } })).status, 401, cookie);
  }
  // One that was good and is taken away.
  const made = JSON.parse((await json('POST', '/tokens', { name: 'short', role: 'viewer', days: 1 })).text);
  assert.equal((await ask('GET', '/instances', { token: made.secret })).status, 200);
  for (const days of [0, -1, 100_000]) assert.equal((await json('POST', '/tokens', { name: 'odd', role: 'viewer', days })).status, 400);
  assert.equal((await ask('DELETE', `/tokens/${made.id}`)).status, 200);
  assert.equal((await ask('GET', '/instances', { token: made.secret })).status, 401);
});

test('bodies over their limit are refused, and take no memory', async () => {
  // Whoever goes on sending after the answer may find the connection closed before they have read it.
  const cut = (error) => {
    assert.match(error.code ?? '', /EPIPE|ECONNRESET/, String(error));
    return { status: 400, text: '{"message": "cannot read the request: cut off"}' };
  };
  const big = await ask('POST', '/instances', { body: `{"image": "${'x'.repeat(2 << 20)}"}`, headers: { 'content-type': 'application/json' } }).catch(cut);
  assert.equal(big.status, 400);
  assert.match(JSON.parse(big.text).message, /cannot read the request/);
  engine.berth('run', '-d', '--name', 'small', '--tmpfs', '/full:size=64k', 'tiny', 'sleep', '100000');
  const full = await ask('PUT', '/instances/small/files/content?path=/full/x', { body: Buffer.alloc(4 << 20) }).catch(cut);
  assert.ok(full.status >= 400 && full.status < 600 && JSON.parse(full.text).message, full.text);
  assert.equal(engine.berth('exec', 'small', 'ls', '-A', '/full'), '', 'nothing half written is left');
});

test('terminals, uploads and streams that break off leave nothing behind', async () => {
  const folder = `/proc/${engine.child.pid}/fd`;
  const open = () => readdirSync(folder).length;
  const raw = (head) => new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port: engine.port, rejectUnauthorized: false }, () => socket.write(head));
    socket.once('data', () => resolve(socket));
    socket.once('error', reject);
  });
  const upgrade = (path) => `GET /api/v1${path} HTTP/1.1\r\nhost: 127.0.0.1:${engine.port}\r\nauthorization: Bearer ${secret}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: ${randomBytes(16).toString('base64')}\r\n\r\n`;
  // The first of each brings what stays: threads, caches.
  const round = async () => {
    const sockets = await Promise.all(['/instances/small/terminal?command=sleep+4321', '/events', '/instances/small/logs/follow', '/instances/small/live'].map((path) => raw(upgrade(path))));
    await until('the shell runs', () => engine.berth('top', 'small').includes('sleep 4321'));
    // A frame that is cut in its middle, and one that claims to be larger than anything.
    sockets[0].write(Buffer.from([0x82, 0xfe]));
    sockets[1].write(Buffer.from([0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
    for (const socket of sockets) socket.destroy();
    await until('the shell is gone', () => !engine.berth('top', 'small').includes('sleep 4321'));
    const half = connect({ host: '127.0.0.1', port: engine.port, rejectUnauthorized: false }, () => half.write(`PUT /api/v1/instances/small/files/content?path=/tmp/half HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${secret}\r\ncontent-length: 1000000\r\n\r\n${'x'.repeat(1000)}`));
    await until('the upload has begun', () => engine.berth('exec', 'small', 'ls', '-A', '/tmp').includes('.berth-'));
    half.destroy();
    await until('what was half written is gone', () => engine.berth('exec', 'small', 'ls', '-A', '/tmp') === '');
  };
  await round();
  const before = open();
  for (let n = 0; n < 5; n += 1) await round();
  await until('no descriptor is left', () => open() <= before + 2);
});
