// Signing in by a real OpenID Connect provider: `oidc-provider` of npm, certified, as it comes.
//   npm install --prefix /tmp/oidc oidc-provider
//   BERTH_OIDC_PROVIDER=/tmp/oidc/node_modules/oidc-provider node --test tests/console/provider.test.mjs

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { createServer, request as plain } from 'node:http';
import { request as secure } from 'node:https';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { Engine, PROGRAMS } from './engine.mjs';

const at = process.env.BERTH_OIDC_PROVIDER;
if (!at) {
  console.log('skipped: needs BERTH_OIDC_PROVIDER, the folder of oidc-provider');
  process.exit(0);
}
if (process.getuid() !== 0 || !existsSync(join(PROGRAMS, 'berthd'))) {
  console.log('skipped: needs root, and the built programs');
  process.exit(0);
}

const PEOPLE = { nina: ['ops'], vera: ['guests'], sven: [] };
let engine;
let server;
let issuer;
let secret;

/** A browser as far as it matters here: cookies by host, redirects, forms. */
class Browser {
  jar = {};

  ask(method, url, form) {
    const to = new URL(url);
    const jar = (this.jar[to.host] ??= {});
    const headers = { cookie: Object.entries(jar).map(([name, value]) => `${name}=${value}`).join('; ') };
    if (form) headers['content-type'] = 'application/x-www-form-urlencoded';
    return new Promise((resolve, reject) => {
      const sent = (to.protocol === 'https:' ? secure : plain)(to, { method, headers, rejectUnauthorized: false }, (answer) => {
        for (const line of answer.headers['set-cookie'] ?? []) {
          const [name, ...value] = line.split(';')[0].split('=');
          if (/max-age=0|expires=thu, 01 jan 1970/i.test(line)) delete jar[name];
          else jar[name] = value.join('=');
        }
        const parts = [];
        answer.on('data', (part) => parts.push(part));
        answer.on('end', () => resolve({ status: answer.statusCode, to: answer.headers.location && new URL(answer.headers.location, to).href, text: Buffer.concat(parts).toString() }));
      });
      sent.on('error', reject);
      sent.end(form);
    });
  }

  /** Follows redirects and fills the provider's forms, until the engine answers. */
  async signIn(name) {
    let answer = await this.ask('GET', `${engine.url}/api/v1/oidc/start`);
    for (let n = 0; n < 20; n += 1) {
      if (answer.to) answer = await this.ask('GET', answer.to);
      else if (/name="prompt" value="(\w+)"/.test(answer.text)) {
        const action = /action="([^"]+)"/.exec(answer.text)[1];
        const prompt = /name="prompt" value="(\w+)"/.exec(answer.text)[1];
        answer = await this.ask('POST', new URL(action, issuer).href, new URLSearchParams({ prompt, login: name, password: 'x' }).toString());
      } else return answer;
    }
    throw new Error('redirected without an end');
  }
}

const admin = (method, path, value) => new Promise((resolve, reject) => {
  const body = JSON.stringify(value);
  const headers = { authorization: `Bearer ${secret}`, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
  const sent = secure(`${engine.url}/api/v1${path}`, { method, headers, rejectUnauthorized: false }, (answer) => {
    const parts = [];
    answer.on('data', (part) => parts.push(part));
    answer.on('end', () => resolve({ status: answer.statusCode, text: Buffer.concat(parts).toString() }));
  });
  sent.on('error', reject);
  sent.end(body);
});

before(async () => {
  engine = await Engine.start();
  secret = await engine.token();
  const { Provider } = await import(pathToFileURL(join(at, 'lib/index.js')));
  server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: 'berth', client_secret: 'hush-hush-hush', redirect_uris: [`${engine.url}/api/v1/oidc/return`], token_endpoint_auth_method: 'client_secret_post' }],
    claims: { openid: ['sub'], profile: ['preferred_username'], email: ['email'], groups: ['groups'] },
    scopes: ['openid', 'profile', 'email', 'groups'],
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, preferred_username: id, email: `${id}@example.org`, groups: PEOPLE[id] }) }),
  });
  server.on('request', provider.callback());
});

after(async () => {
  server?.close();
  await engine?.clear();
});

test('people of a group come in with its role, and others do not', async () => {
  const settings = { issuer, client_id: 'berth', client_secret: 'hush-hush-hush', roles: { ops: 'operator', guests: 'viewer' } };
  const put = await admin('PUT', '/oidc', settings);
  assert.equal(put.status, 200, put.text);
  for (const [name, role] of [['nina', 'operator'], ['vera', 'viewer']]) {
    const browser = new Browser();
    const answer = await browser.signIn(name);
    assert.equal(answer.status, 200, answer.text);
    const session = JSON.parse((await browser.ask('GET', `${engine.url}/api/v1/session`)).text);
    assert.deepEqual([session.user, session.role], [name, role]);
  }
  const stranger = new Browser();
  const refused = await stranger.signIn('sven');
  assert.equal(refused.status, 403, refused.text);
  assert.equal((await stranger.ask('GET', `${engine.url}/api/v1/session`)).status, 401);
});

test('a wrong client secret is said so, and signs nobody in', async () => {
  const put = await admin('PUT', '/oidc', { issuer, client_id: 'berth', client_secret: 'wrong', roles: { ops: 'operator' } });
  assert.equal(put.status, 200, put.text);
  const refused = await new Browser().signIn('nina');
  assert.equal(refused.status, 503, refused.text);
  assert.match(refused.text, /401/);
});
