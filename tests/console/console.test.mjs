// The console in a real browser against a real engine: what an operator does, and what must not happen.

import assert from 'node:assert/strict';
import { createHash, createHmac } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { Engine, hasCompose, missing, skipFor, until } from './engine.mjs';
import { PASSWORD, Session } from './session.mjs';

skipFor(missing());

let session;
let engine;
let chrome;
let page;
const newPage = (options) => session.newPage(options);
const go = (path, at) => session.go(path, at);
const signIn = (at, name, password) => session.signIn(at, name, password);

/** Six digits of an authenticator (RFC 6238). */
function totp(secret) {
  const bits = [...secret].map((one) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(one).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000)));
  const mac = createHmac('sha1', key).update(counter).digest();
  const at = mac[19] & 15;
  return String((mac.readUInt32BE(at) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

const idOf = (name) => session.idOf(name);
const stateOf = (name) => session.stateOf(name);
const api = (path) => session.api(path);
const csrfOf = (at) => session.csrfOf(at);
const shot = (name, at) => session.shot(name, at);
const violations = (at) => session.violations(at);
const accessible = (what) => session.accessible(what);
const confirm = (action) => session.confirm(action);
const call = (method, path, data) => session.call(method, path, data);
const get = (path) => session.get(path);

before(async () => {
  session = await Session.start();
  ({ engine, chrome, page } = session);
});

after(async () => {
  await session?.end();
});

test('without a session nothing is told', async () => {
  for (const path of ['/instances', '/users', '/audit', '/events', '/settings']) {
    assert.equal((await page.request.get(api(path))).status(), 401, path);
  }
  const head = (await page.request.get(engine.url)).headers();
  assert.match(head['content-security-policy'], /default-src 'none'/);
  assert.doesNotMatch(head['content-security-policy'], /unsafe/);
  assert.equal(head['x-frame-options'], 'DENY');
});

test('the one-time token makes the administrator, once', async () => {
  await page.goto(engine.url);
  await page.getByRole('heading', { name: 'Set up this engine' }).waitFor();
  await accessible('set-up');
  const token = /set-up token is (\S+)/.exec(engine.log)[1];
  await page.getByLabel('Set-up token').fill('wrong');
  await page.getByLabel('Name').fill('ada');
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Create administrator' }).click();
  await page.getByRole('alert').getByText('not valid').waitFor();
  await page.getByLabel('Set-up token').fill(token);
  await page.getByRole('button', { name: 'Create administrator' }).click();
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  const again = await page.request.post(api('/setup'), { data: { token, name: 'eve', password: PASSWORD } });
  assert.equal(again.status(), 401);
  const cookie = (await page.context().cookies()).find((one) => one.name === '__Host-berth');
  assert.ok(cookie.httpOnly && cookie.secure && cookie.sameSite === 'Strict');
});

test('an instance is made by the wizard, which shows the same as a command', async () => {
  await go('/create?image=tiny:latest');
  await page.getByLabel('Name', { exact: true }).fill('web');
  await page.getByLabel('Command').fill("sh -c 'while true; do echo tick; sleep 0.2; done'");
  await shot('create');
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('button', { name: /^Small/ }).click();
  for (let n = 0; n < 2; n += 1) await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('button', { name: 'Publish a port' }).click();
  await page.getByLabel('Port on the host').fill('0');
  await page.getByRole('button', { name: 'Review' }).last().click();
  await page.getByText(/berth run[^]*--name web[^]*--memory 256m[^]*--cpus 0.5/).waitFor();
  await accessible('the wizard');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await page.getByRole('heading', { name: 'web', exact: true }).waitFor();
  await page.getByText(/runs since/).waitFor();
  assert.equal(stateOf('web'), 'running');
});

test('its terminal takes what is typed', async () => {
  const typed = async (text) => {
    await page.locator('.xterm').click();
    await page.keyboard.type(text);
  };
  await go(`/instances/${idOf('web')}/terminal`);
  await page.getByText('connected').waitFor();
  await typed('echo answer-$((6*7)); ls /\n');
  await page.locator('.xterm').getByText('answer-42').first().waitFor();
  await shot('terminal');
  await typed('exit\n');
  await page.getByText('the shell has ended').waitFor();
  // A shell whose page is left does not live on.
  await page.getByRole('button', { name: 'Open again' }).click();
  await page.getByText('connected').waitFor();
  await typed('exec sleep 7654\n');
  await until('it sleeps', () => engine.berth('top', 'web').includes('sleep 7654'));
  await go('/instances');
  await until('it is gone', () => !engine.berth('top', 'web').includes('sleep 7654'));
});

test('its log is followed, searched, and runs no script', async () => {
  engine.berth('run', '-d', '--name', 'hostile', '-l', 'x=<img src=x onerror=alert(1)>', 'tiny', 'sh', '-c',
    'echo "<script>alert(1)</script><img src=x onerror=alert(2)>"; printf "\\033]0;evil\\007\\033[31mred\\n"; sleep 1000');
  await go(`/instances/${idOf('hostile')}/logs`);
  await page.getByText('<script>alert(1)</script>').waitFor();
  await go(`/instances/${idOf('hostile')}`);
  await page.getByText('x=<img src=x onerror=alert(1)>').first().waitFor();
  await go(`/instances/${idOf('web')}/logs`);
  await page.getByText('tick').first().waitFor();
  await page.getByLabel('Search the log').fill('nothing like it');
  await page.getByText('Nothing matches').waitFor();
  await page.getByLabel('Search the log').fill('TICK');
  await page.locator('mark').first().waitFor();
});

test('its files are seen, edited, uploaded, downloaded and removed', async () => {
  engine.berth('exec', 'web', 'sh', '-c', 'mkdir -p "/data/<b>x"; echo one > /data/a.conf; chmod 640 /data/a.conf; ln -s /data/a.conf /data/link; ln -s ../../../../../etc/shadow /data/out');
  await go(`/instances/${idOf('web')}/files?path=/data`);
  await page.getByRole('button', { name: '<b>x', exact: true }).waitFor();
  await page.getByRole('button', { name: 'a.conf', exact: true }).click();
  await page.getByLabel('/data/a.conf').fill('two\n');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('/data/a.conf is written').waitFor();
  assert.equal(engine.berth('exec', 'web', 'sh', '-c', 'cat /data/a.conf; stat -c %a /data/a.conf'), 'two\n640');
  await accessible('files');
  await shot('files');
  await page.locator('input[type=file]').setInputFiles({ name: 'up load.bin', mimeType: 'application/octet-stream', buffer: Buffer.alloc(3 << 20, 7) });
  await page.getByRole('button', { name: 'up load.bin', exact: true }).waitFor();
  assert.equal(engine.berth('exec', 'web', 'stat', '-c', '%s', '/data/up load.bin'), String(3 << 20));
  const coming = page.waitForEvent('download');
  await page.getByRole('link', { name: 'Download up load.bin' }).click();
  assert.equal((await coming).suggestedFilename(), 'up load.bin');
  await page.getByRole('button', { name: 'Folder', exact: true }).click();
  await page.getByLabel('Name of the folder').fill('new one');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await page.getByRole('button', { name: 'new one', exact: true }).click();
  await page.getByText('Nothing in here').waitFor();
  await go(`/instances/${idOf('web')}/files?path=/data`);
  await page.getByRole('button', { name: 'Remove new one' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('button', { name: 'new one', exact: true }).waitFor({ state: 'detached' });
  // A link that climbs above the root stays below it: there is no /etc/shadow in this image, and the host's is not shown.
  const out = await page.request.get(api(`/instances/${idOf('web')}/files/content?path=/data/out`));
  assert.ok(out.status() >= 400 || (await out.body()).length < 200, 'the link itself at most');
  assert.doesNotMatch(await out.text(), /root:/);
  const headers = { 'x-berth-csrf': await csrfOf(page) };
  const bad = await page.request.put(api(`/instances/${idOf('web')}/files/content?path=relative`), { headers, data: Buffer.from('x') });
  assert.equal(bad.status(), 400);
});

test('it is scaled live', async () => {
  const started = engine.berth('inspect', '--format', '{{.State.StartedAt}}', 'web');
  await go(`/instances/${idOf('web')}/scale`);
  await page.getByLabel('Exactly, in MiB').fill('96');
  await page.getByText('berth update --memory 96m').waitFor();
  await page.getByRole('button', { name: 'Apply live' }).click();
  await page.getByText('Applied live').waitFor();
  assert.equal(engine.berth('inspect', '--format', '{{.HostConfig.Memory}}', 'web'), String(96 << 20));
  assert.equal(engine.berth('inspect', '--format', '{{.State.StartedAt}}', 'web'), started, 'and goes on');
  // More of it, and fewer again.
  const apply = page.locator('section').filter({ has: page.getByRole('heading', { name: 'Replicas' }) }).getByRole('button', { name: 'Apply' });
  await page.getByLabel('How many run').fill('3');
  await apply.click();
  await page.getByText('web-2, web-3').waitFor();
  await until('they run', () => ['web-2', 'web-3'].every((name) => stateOf(name) === 'running'));
  await page.getByLabel('How many run').fill('1');
  await apply.click();
  await session.confirm('Remove');
  await page.getByText('Others like it get its name and a number').waitFor();
  assert.ok(!engine.berth('ps', '-a', '--format', '{{.Names}}').includes('web-'));
});

test('a viewer sees, and changes nothing', async () => {
  await go('/people');
  const form = page.locator('form').filter({ hasText: 'Add user' });
  await form.getByLabel('Name').fill('vic');
  await form.getByLabel('Role').selectOption('viewer');
  await form.getByLabel('Password').fill(PASSWORD);
  await form.getByRole('button').click();
  await page.getByText('vic can sign in').waitFor();
  await accessible('access');

  const other = await newPage();
  await signIn(other, 'vic', PASSWORD);
  await go('/instances', other);
  await other.getByRole('link', { name: 'web', exact: true }).waitFor();
  assert.equal(await other.getByRole('button', { name: 'Stop web' }).count(), 0);
  assert.equal(await other.getByRole('link', { name: 'Create' }).count(), 0);
  const headers = { 'x-berth-csrf': await csrfOf(other) };
  const refused = await other.request.post(api(`/instances/${idOf('web')}/stop`), { headers, data: {} });
  assert.equal(refused.status(), 403);
  assert.match((await refused.json()).message, /needs the role operator/);
  const detail = await (await other.request.get(api(`/instances/${idOf('web')}`))).json();
  assert.ok(detail.env.every((entry) => entry.endsWith('=')), 'values of the environment are not shown');
  await other.context().close();
});

test('what comes from another page, or with a forged token, is refused', async () => {
  const stop = api(`/instances/${idOf('web')}/stop`);
  const csrf = await csrfOf(page);
  assert.equal((await page.request.post(stop, { data: {} })).status(), 403, "without the page's value");
  const foreign = await page.request.post(stop, { headers: { origin: 'https://evil.example', 'x-berth-csrf': csrf }, data: {} });
  assert.equal(foreign.status(), 403, 'from elsewhere');
  const fresh = await chrome.newContext({ ignoreHTTPSErrors: true });
  const forged = await fresh.request.get(api('/instances'), { headers: { authorization: 'Bearer berth_000000000000_00' } });
  assert.equal(forged.status(), 401);
  const made = await (await page.request.post(api('/tokens'), { headers: { 'x-berth-csrf': csrf }, data: { name: 'ci', role: 'viewer', days: 1 } })).json();
  const headers = { authorization: `Bearer ${made.secret}` };
  assert.equal((await fresh.request.get(api('/instances'), { headers })).status(), 200);
  assert.equal((await fresh.request.post(stop, { headers, data: {} })).status(), 403);
  await fresh.close();
  assert.equal(stateOf('web'), 'running');
});

test('an operator gets nothing that amounts to root on the host', async () => {
  const headers = { 'x-berth-csrf': await csrfOf(page) };
  const token = await (await page.request.post(api('/tokens'), { headers, data: { name: 'op', role: 'operator', days: 1 } })).json();
  const fresh = await chrome.newContext({ ignoreHTTPSErrors: true, extraHTTPHeaders: { authorization: `Bearer ${token.secret}` } });
  const bind = { mounts: [{ kind: 'bind', source: '/', target: '/host' }] };
  for (const more of [bind, { privileged: true }, { network: 'host' }]) {
    const answer = await fresh.request.post(api('/instances'), { data: { image: 'tiny', ...more } });
    assert.equal(answer.status(), 403, JSON.stringify(more));
  }
  engine.berth('run', '-d', '--name', 'rooted', '--cap-add', 'NET_ADMIN', 'tiny', 'sleep', '1000');
  assert.equal((await fresh.request.post(api(`/instances/${idOf('rooted')}/clone`), { data: {} })).status(), 403);
  assert.equal((await fresh.request.post(api(`/instances/${idOf('web')}/recreate`), { data: bind })).status(), 403);
  await fresh.close();
});

test('a project shows its members their own, and keeps its quota', async () => {
  const csrf = { 'x-berth-csrf': await csrfOf(page) };
  await page.request.post(api('/users'), { headers: csrf, data: { name: 'mia', role: 'member', password: PASSWORD } });
  await go('/projects');
  await page.getByRole('button', { name: 'New project' }).click();
  await page.getByLabel('Name', { exact: true }).fill('shop');
  await page.getByLabel('Instances at most').fill('2');
  await page.getByLabel('Memory in GiB at most').fill('0.125');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await page.getByRole('heading', { name: 'shop' }).waitFor();
  await page.getByLabel('User', { exact: true }).selectOption('mia');
  await page.getByRole('button', { name: 'Add member' }).click();
  await page.getByText('mia · operator').waitFor();
  await accessible('projects');
  await shot('projects');

  const other = await newPage();
  await signIn(other, 'mia', PASSWORD);
  await go('/instances', other);
  await other.getByText('No instances yet').waitFor();
  const headers = { 'x-berth-csrf': await csrfOf(other) };
  const make = async (data) => other.request.post(api('/instances'), { headers, data: { image: 'tiny', command: ['sleep', '1000'], start: true, ...data } });
  assert.equal((await make({ name: 'shop-0' })).status(), 400, 'memory is limited, so each needs a limit');
  const made = await make({ name: 'shop-1', memory_bytes: 64 << 20 });
  assert.equal(made.status(), 200, await made.text());
  await other.getByRole('link', { name: 'shop-1', exact: true }).waitFor();
  const own = engine.berth('inspect', '--format', '{{index .Config.Labels "berth.project"}} {{.HostConfig.NetworkMode}}', 'shop-1');
  assert.equal(own, 'shop shop', 'in its project, and on its network');
  // What is not theirs is not there, whatever is tried.
  engine.berth('volume', 'create', 'strange');
  const web = idOf('web');
  for (const path of [`/instances/${web}`, `/instances/${web}/logs`, `/instances/${web}/files`, `/instances/${web}/settings`, `/instances/${web}/meters`]) {
    assert.equal((await other.request.get(api(path))).status(), 404, path);
  }
  for (const [path, data] of [[`/instances/${web}/stop`, {}], [`/instances/${web}/clone`, {}], [`/instances/${web}/recreate`, {}], ['/instances/bulk', { ids: [web], action: 'stop' }], ['/networks/shop/join', { instance: web }]]) {
    assert.equal((await other.request.post(api(path), { headers, data })).status(), 404, path);
  }
  for (const data of [{ project: 'lab' }, { mounts: [{ kind: 'volume', source: 'strange', target: '/v' }] }, { network: 'host' }]) {
    const answer = await make({ memory_bytes: 1 << 20, ...data });
    assert.equal(answer.status(), 403, JSON.stringify(data));
  }
  const full = await make({ name: 'shop-2', memory_bytes: 65 << 20 });
  assert.equal(full.status(), 409);
  assert.match((await full.json()).message, /no room.*128 MiB of memory/);
  const grow = await other.request.patch(api(`/instances/${idOf('shop-1')}`), { headers, data: { memory_bytes: 256 << 20 } });
  assert.equal(grow.status(), 409, 'it cannot grow over the quota either');
  assert.equal((await make({ name: 'shop-2', memory_bytes: 64 << 20 })).status(), 200);
  assert.equal((await make({ name: 'shop-3', memory_bytes: 8 << 20 })).status(), 409, 'two instances at most');

  assert.equal((await make({ memory_bytes: 1 << 20, labels: { 'berth.project': 'lab' } })).status(), 409, 'the label is the project that was given, which is full');
  for (const path of ['/disk', '/settings', '/users', '/audit', '/doctor']) assert.equal((await other.request.get(api(path))).status(), 403, path);
  const volumes = await (await other.request.get(api('/volumes'))).json();
  assert.ok(!volumes.some((one) => one.name === 'strange'));
  assert.deepEqual((await (await other.request.get(api('/networks'))).json()).map((one) => one.name), ['shop']);
  // Its stream tells nothing of others: what follows is made after it, and is seen.
  engine.berth('run', '-d', '--name', 'elsewhere', 'tiny', 'sleep', '1000');
  engine.berth('rename', 'shop-2', 'shop-two');
  await other.getByRole('link', { name: 'shop-two', exact: true }).waitFor();
  assert.equal(await other.getByText('elsewhere').count(), 0);
  // A token that is good in the project only.
  const token = await (await other.request.post(api('/tokens'), { headers, data: { name: 'ci', role: 'viewer', project: 'shop', days: 1 } })).json();
  const fresh = await chrome.newContext({ ignoreHTTPSErrors: true, extraHTTPHeaders: { authorization: `Bearer ${token.secret}` } });
  assert.deepEqual((await (await fresh.request.get(api('/instances'))).json()).map((one) => one.name).sort(), ['shop-1', 'shop-two']);
  assert.equal((await fresh.request.post(api(`/instances/${idOf('shop-1')}/stop`), { data: {} })).status(), 403);
  await fresh.close();
  // Taken out of the project, they see nothing of it any more.
  await page.request.patch(api('/projects/shop'), { headers: csrf, data: { members: {} } });
  assert.equal((await other.request.get(api('/instances'))).status(), 403);
  assert.equal((await page.request.delete(api('/projects/shop'), { headers: csrf })).status(), 409, 'it is not empty');
  await other.context().close();
  await page.getByRole('button', { name: 'Remove shop' }).click();
  await page.getByRole('dialog').getByText('shop-two').waitFor();
  await confirm('Show them');
  await page.getByLabel('Filter', { exact: true }).and(page.locator('input')).waitFor();
  await page.getByRole('link', { name: 'shop-two', exact: true }).waitFor();
  assert.equal(await page.getByRole('link', { name: 'web', exact: true }).count(), 0, 'and no others');
  engine.berth('rm', '-f', 'shop-1', 'shop-two', 'elsewhere');
  assert.equal((await page.request.delete(api('/projects/shop'), { headers: csrf })).status(), 200);
  await until('the project is gone', async () => !(await get('/projects')).some((one) => one.name === 'shop'));
});

test('whoever removes a project sees what is left in it, and says what becomes of it', async () => {
  const json = async (method, path, data) => {
    const answer = await call(method, path, data);
    assert.equal(answer.status(), 200, await answer.text());
    return answer.json();
  };
  const fill = async () => {
    await json('POST', '/projects', { name: 'attic' });
    await json('POST', '/volumes', { name: 'attic-data', project: 'attic' });
    await json('PUT', '/volumes/attic-data/schedule', { begin_unix_millis: Date.now() + 3_600_000, every_hours: 1, keep: 1 });
    await json('POST', '/networks', { name: 'attic-back', project: 'attic' });
    const { id } = await json('POST', '/volumes/attic-data/backups', {});
    await until('it is backed up', async () => (await get(`/tasks/${id}`)).state === 'done');
    engine.berth('create', '--name', 'attic-1', '--label', 'berth.project=attic', 'tiny');
    await json('POST', `/instances/${idOf('attic-1')}/snapshots`, { name: 'first' });
    engine.berth('rm', 'attic-1');
  };
  const left = async () => {
    const [volumes, backups, schedules, networks, images] = await Promise.all(['/volumes', '/backups', '/schedules', '/networks', '/images'].map((path) => get(path)));
    return [
      volumes.some((one) => one.name === 'attic-data'), backups.some((one) => one.volume === 'attic-data'), schedules.some((one) => one.volume === 'attic-data'),
      networks.some((one) => one.name === 'attic-back'), images.some((one) => one.names.includes('snapshot/attic-1:first')),
    ];
  };
  const ask = async () => {
    await go('/projects');
    await page.getByRole('button', { name: 'Remove attic' }).click();
    for (const what of ['Volume attic-data', 'Backup of attic-data', 'Network attic-back', 'Snapshot snapshot/attic-1:first']) await page.getByRole('dialog').getByText(what).waitFor();
  };
  await fill();
  const refused = await call('DELETE', '/projects/attic');
  assert.equal(refused.status(), 409, 'nothing is left behind without a word');
  assert.match((await refused.json()).message, /still has 1 volume, 1 backup, 1 snapshot, 1 network$/);
  assert.equal((await call('DELETE', '/projects/attic?contents=maybe')).status(), 400);
  await ask();
  await accessible('project-removal');
  await shot('project-removal');
  await confirm('Remove');
  await until('the project is gone', async () => !(await get('/projects')).some((one) => one.name === 'attic'));
  assert.deepEqual(await left(), [true, true, true, true, true], 'what was not ticked stays');
  await json('POST', '/projects', { name: 'attic' });
  await go('/');
  await ask();
  await page.getByRole('dialog').getByRole('checkbox').check();
  await confirm('Remove');
  await until('the project is gone', async () => !(await get('/projects')).some((one) => one.name === 'attic'));
  assert.deepEqual(await left(), [false, false, false, false, false], 'what was ticked goes');
  const told = (await get('/audit')).filter((one) => one.act === 'project.remove' && one.target.startsWith('attic')).map((one) => one.target);
  assert.ok(told.some((one) => one.endsWith('1 network removed')) && told.some((one) => one.endsWith('1 network kept')), told.join(' | '));
});

test('a second factor is set up, asked for, used once, and turned off', async () => {
  const csrf = { 'x-berth-csrf': await csrfOf(page) };
  await page.request.post(api('/users'), { headers: csrf, data: { name: 'tom', role: 'viewer', password: PASSWORD } });
  const other = await newPage();
  await signIn(other, 'tom', PASSWORD);
  await go('/people', other);
  await other.getByLabel('Present password').fill(PASSWORD);
  await other.getByRole('button', { name: 'Set up' }).click();
  const secret = (await other.getByRole('region', { name: 'Secret' }).innerText()).trim();
  // A code is good for a minute: on a slow machine it may be over when it arrives, and the next one is tried.
  const region = other.getByRole('region', { name: 'Recovery codes' });
  await until('a code arrives in time', async () => {
    if (await region.count()) return true;
    await other.getByLabel('Code').fill(totp(secret), { timeout: 10_000 }).catch(() => undefined);
    await other.getByRole('button', { name: 'Turn on' }).click({ timeout: 10_000 }).catch(() => undefined);
    return region.waitFor({ timeout: 10_000 }).then(() => true, () => false);
  });
  const codes = (await other.getByRole('region', { name: 'Recovery codes' }).innerText()).trim().split(/\s+/);
  assert.equal(codes.length, 8);
  await accessible('access with a second factor');
  await other.getByRole('button', { name: 'Sign out' }).click();
  await other.getByLabel('Name').fill('tom');
  await other.getByLabel('Password').fill(PASSWORD);
  await other.getByRole('button', { name: 'Sign in' }).click();
  const code = other.getByLabel('Code from your authenticator');
  await code.fill('000000');
  await other.getByRole('button', { name: 'Sign in' }).click();
  await other.getByRole('alert').getByText('not valid').waitFor();
  await code.fill(codes[0]);
  await other.getByRole('button', { name: 'Sign in' }).click();
  await other.getByRole('heading', { name: 'Access' }).waitFor();
  const fresh = await chrome.newContext({ ignoreHTTPSErrors: true });
  const again = await fresh.request.post(api('/session'), { data: { name: 'tom', password: PASSWORD, code: codes[0] } });
  assert.equal(again.status(), 401, 'a recovery code is good once');
  await fresh.close();
  await page.request.patch(api('/users/tom'), { headers: csrf, data: { second_factor: false } });
  await signIn(other, 'tom', PASSWORD);
  await other.context().close();
});

test('without the compose plugin the page says what to install', { skip: hasCompose() && 'the plugin is there' }, async () => {
  await go('/stacks');
  await page.getByText('stacks need the compose plugin').waitFor();
});

test('a stack is put up, drawn, scaled, rolled over to its change, and removed', { skip: !hasCompose() && 'needs the compose plugin (docker-compose, or BERTH_COMPOSE)' }, async () => {
  const text = (colour, more = '') => `services:
  web:
    image: tiny
    command: sh -c 'echo ok > /tmp/well; exec sleep 1000'
    environment: { COLOUR: ${colour} }
    healthcheck: { test: ["CMD-SHELL", "cat /tmp/well"], interval: 1s, retries: 30 }
    depends_on: { db: { condition: service_started } }
    ${more}
  db: { image: tiny, command: sleep 1000, volumes: ["data:/data"] }
volumes: { data: {} }
`;
  const headers = { 'x-berth-csrf': await csrfOf(page) };
  const webs = () => engine.berth('ps', '-q', '--no-trunc', '--filter', 'label=com.docker.compose.project=shop', '--filter', 'label=com.docker.compose.service=web').split('\n').filter(Boolean);
  const ended = async () => until('the task ends', async () => {
    const [task] = (await (await page.request.get(api('/tasks'))).json()).filter((one) => one.target === 'shop');
    return task && task.state !== 'running' ? task : null;
  });
  await go('/stacks/new');
  await page.getByLabel('Name', { exact: true }).fill('shop');
  await page.getByLabel('Compose file').fill('services: {web: {image: [}');
  await page.getByRole('alert').getByText('cannot be used').waitFor();
  await page.getByLabel('Compose file').fill(text('red'));
  await page.getByRole('img', { name: /web: .*← db/ }).waitFor();
  await page.getByRole('button', { name: 'Put it up' }).click();
  await page.getByRole('heading', { name: 'shop' }).waitFor();
  await page.getByRole('link', { name: 'shop-web-1' }).waitFor();
  assert.equal((await ended()).state, 'done');
  await accessible('a stack');
  await shot('stack');
  await page.getByRole('button', { name: 'One web more' }).click();
  await page.getByRole('link', { name: 'shop-web-2' }).waitFor();
  await ended();
  const before = webs();
  assert.equal(before.length, 2);
  // Rolling: there is a web that runs all the time.
  await page.getByLabel('Compose file').fill(text('green', 'scale: 2'));
  await page.getByRole('button', { name: 'Apply the changes' }).click();
  let least = 2;
  await until('both are new', () => {
    const now = webs();
    least = Math.min(least, now.length);
    return now.length === 2 && now.every((id) => !before.includes(id));
  });
  const rolled = await ended();
  assert.equal(rolled.state, 'done', JSON.stringify(rolled));
  assert.ok(least >= 2, `only ${least} of 2 ran`);
  assert.ok(webs().every((id) => engine.berth('inspect', '--format', '{{.Config.Env}}', id).includes('COLOUR=green')));
  // One that does not get well leaves the old ones.
  const good = webs().sort();
  const bad = await page.request.put(api('/stacks/shop'), { headers, data: { rolling: true, text: text('blue', 'scale: 2').replace('cat /tmp/well', 'exit 1').replace('retries: 30', 'retries: 1') } });
  assert.equal(bad.status(), 200, await bad.text());
  const failed = await ended();
  assert.equal(failed.state, 'failed', JSON.stringify(failed));
  assert.match(JSON.stringify(failed.error), /the old one goes on/);
  assert.deepEqual(webs().sort(), good);
  // What reaches the host is an administrator's; no file of root's is read for anybody.
  const op = await (await page.request.post(api('/tokens'), { headers, data: { name: 'stacks', role: 'operator', days: 1 } })).json();
  const fresh = await chrome.newContext({ ignoreHTTPSErrors: true, extraHTTPHeaders: { authorization: `Bearer ${op.secret}` } });
  const put = (text) => fresh.request.put(api('/stacks/mine'), { data: { text } });
  assert.equal((await put('services: {a: {image: tiny, privileged: true}}')).status(), 403);
  assert.equal((await put('services: {a: {image: tiny, volumes: ["/etc:/x"]}}')).status(), 403);
  assert.equal((await put('services: {a: {image: tiny, volumes: ["held:/x"]}}\nvolumes: {held: {driver_opts: {type: none, o: bind, device: /etc}}}')).status(), 403);
  for (const reads of ['include: [/etc/shadow]', 'services: {a: {image: tiny, env_file: /etc/shadow}}', 'services: {a: {extends: {file: /etc/shadow, service: b}}}']) {
    const answer = await put(reads);
    assert.ok([400, 403].includes(answer.status()), reads);
    assert.doesNotMatch(await answer.text(), /root:/, reads);
  }
  await fresh.close();
  await page.getByRole('button', { name: 'Remove', exact: true }).click();
  await page.getByRole('dialog').getByRole('checkbox').check();
  await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
  await until('it is gone', () => engine.berth('ps', '-aq', '--filter', 'label=com.docker.compose.project=shop') === '' && !engine.berth('volume', 'ls', '-q').includes('shop_data'));
  await ended();
});

test('two hosts: one is added, seen, driven, away, and back', async () => {
  const second = await Engine.start();
  try {
    const secret = await second.token();
    const fingerprint = /certificate SHA-256 (\S+)/.exec(second.log)[1];
    second.berth('run', '-d', '--name', 'faraway', 'tiny', 'sleep', '1000');
    await go('/hosts');
    await page.getByRole('button', { name: 'Add host' }).click();
    await page.getByLabel('Name', { exact: true }).fill('two');
    await page.getByLabel('Address').fill(second.url);
    await page.getByLabel('API token of that engine').fill(secret);
    await page.getByRole('button', { name: 'Add', exact: true }).click();
    await page.getByRole('alert').getByText(fingerprint).waitFor();
    assert.equal(await page.getByLabel('SHA-256 of its certificate').inputValue(), fingerprint);
    await page.getByRole('button', { name: 'Add', exact: true }).click();
    await page.getByRole('row', { name: /two.*up/ }).waitFor();
    await accessible('hosts');
    await shot('hosts');
    // Seen and driven through this console: a list, a log, a terminal, a new instance.
    await page.getByLabel('Host', { exact: true }).selectOption('two');
    await go('/@two/instances');
    await page.getByRole('link', { name: 'faraway', exact: true }).click();
    await page.getByRole('heading', { name: 'faraway' }).waitFor();
    await page.getByRole('link', { name: 'Terminal' }).click();
    await page.getByText('connected').waitFor();
    await page.locator('.xterm').click();
    await page.keyboard.type('echo far-$((40+2))\n');
    await page.locator('.xterm').getByText('far-42').first().waitFor();
    const headers = { 'x-berth-csrf': await csrfOf(page) };
    const there = (path) => api(`/hosts/two/api${path}`);
    const made = await page.request.post(there('/instances'), { headers, data: { name: 'made-there', image: 'tiny', command: ['sleep', '1000'], start: true } });
    assert.equal(made.status(), 200, await made.text());
    assert.equal(second.berth('inspect', '--format', '{{.State.Status}}', 'made-there'), 'running');
    await page.getByRole('link', { name: 'Instances' }).first().click();
    await page.getByRole('link', { name: 'made-there', exact: true }).waitFor();
    // A viewer here is a viewer there.
    const token = await (await page.request.post(api('/tokens'), { headers, data: { name: 'v', role: 'viewer', days: 1 } })).json();
    const fresh = await chrome.newContext({ ignoreHTTPSErrors: true, extraHTTPHeaders: { authorization: `Bearer ${token.secret}` } });
    assert.equal((await fresh.request.get(there('/instances'))).status(), 200);
    assert.equal((await fresh.request.post(there('/instances/made-there/stop'), { data: {} })).status(), 403);
    assert.equal((await fresh.request.get(there('/instances'), { headers: { 'x-berth-role': 'admin' } })).status(), 200);
    assert.equal((await fresh.request.post(there('/instances/made-there/stop'), { headers: { 'x-berth-role': 'admin' }, data: {} })).status(), 403, 'the role cannot be raised by a header');
    await fresh.close();
    // The command line by the host's name, and the host with most room.
    assert.match(engine.berth('--host', 'two', 'ps', '--format', '{{.Names}}'), /faraway/);
    assert.equal(engine.berth('--host', 'two', 'run', '--rm', 'tiny', 'echo', 'through'), 'through');
    await until('the list says how it is', () => /two\s+up\s+2\/2/.test(engine.berth('host', 'ls')));
    assert.ok(['here', 'two'].includes((await (await page.request.get(api('/hosts/place'))).json()).host));
    engine.berth('--host', 'most-room', 'version');
    // Away: it says so, and nothing hangs.
    await go('/@two/hosts');
    await second.end('SIGKILL');
    await page.getByRole('alert').getByText('Host two does not answer').waitFor();
    const begun = Date.now();
    assert.equal((await page.request.get(there('/instances'))).status(), 503);
    assert.ok(Date.now() - begun < 60_000, 'the answer comes, long before a call that is under way would end');
    await page.getByRole('alert').getByRole('button').click();
    await page.getByRole('row', { name: /two.*away/ }).waitFor();
    await second.launch();
    await page.getByRole('row', { name: /two.*up/ }).waitFor();
    const seen = await (await page.request.get(`${api('/hosts/two/api/audit')}`)).json();
    assert.ok(seen.some((one) => one.act === 'instance.create' && one.who === 'ada through root'), JSON.stringify(seen.slice(0, 3)));
    engine.berth('host', 'rm', 'two');
    assert.doesNotMatch(engine.berth('host', 'ls'), /two/);
    await go('/');
  } finally {
    await second.clear();
  }
});

test('people sign in by a provider, and nobody else gets in by it', async () => {
  let claims = {};
  const codes = new Map();
  const provider = createServer((request, response) => {
    const url = new URL(request.url, issuer);
    const answer = (value) => response.setHeader('content-type', 'application/json').end(JSON.stringify(value));
    if (url.pathname === '/.well-known/openid-configuration') return answer({ issuer, authorization_endpoint: `${issuer}/authorize`, token_endpoint: `${issuer}/token` });
    if (url.pathname === '/authorize') {
      const code = `code${codes.size}`;
      codes.set(code, Object.fromEntries(url.searchParams));
      return response.writeHead(302, { location: `${url.searchParams.get('redirect_uri')}?code=${code}&state=${url.searchParams.get('state')}` }).end();
    }
    let text = '';
    request.on('data', (part) => (text += part));
    request.on('end', () => {
      const form = new URLSearchParams(text);
      const begun = codes.get(form.get('code'));
      const challenge = createHash('sha256').update(form.get('code_verifier') ?? '').digest('base64url');
      if (!begun || form.get('client_secret') !== 'hush' || challenge !== begun.code_challenge) return response.writeHead(400).end('{}');
      codes.delete(form.get('code'));
      const now = Math.floor(Date.now() / 1000);
      const all = { iss: issuer, aud: 'berth', sub: '42', iat: now, exp: now + 60, nonce: begun.nonce, preferred_username: 'nina', groups: ['ops'], ...claims };
      answer({ id_token: ['{}', JSON.stringify(all), 'unsigned'].map((part) => Buffer.from(part).toString('base64url')).join('.') });
    });
  });
  await new Promise((resolve) => provider.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${provider.address().port}`;
  try {
    await go('/people');
    const panel = page.locator('section', { hasText: 'Signing in by a provider' });
    await panel.getByRole('button', { name: 'Set up' }).click();
    await panel.getByLabel('Issuer').fill(issuer);
    await panel.getByLabel('Client id').fill('berth');
    await panel.getByLabel('Client secret').fill('hush');
    await panel.getByLabel('Roles of groups').fill('ops=operator');
    await panel.getByRole('button', { name: 'Apply' }).click();
    await panel.getByText('on', { exact: true }).waitFor();
    await accessible('access with a provider');
    const context = await chrome.newContext({ ignoreHTTPSErrors: true, locale: 'en-GB' });
    const other = await context.newPage();
    await other.goto(engine.url);
    await other.getByRole('link', { name: 'Sign in by the provider' }).click();
    await other.getByRole('heading', { name: 'Overview' }).waitFor();
    await other.getByText('nina').waitFor();
    assert.equal((await (await context.request.get(api('/session'))).json()).role, 'operator');
    await context.close();
    // The wrong browser, the wrong claims, the wrong user.
    const status = async (changed) => {
      claims = changed;
      const fresh = await chrome.newContext({ ignoreHTTPSErrors: true });
      const answer = await fresh.request.get(api('/oidc/start'));
      const signedIn = await fresh.request.get(api('/session'));
      await fresh.close();
      return [answer.status(), signedIn.status()];
    };
    assert.deepEqual(await status({}), [200, 200]);
    assert.deepEqual(await status({ nonce: 'other' }), [401, 401]);
    assert.deepEqual(await status({ aud: 'other' }), [401, 401]);
    assert.deepEqual(await status({ exp: 5 }), [401, 401]);
    assert.deepEqual(await status({ groups: ['strangers'] }), [403, 401]);
    assert.deepEqual(await status({ preferred_username: 'ada', groups: ['ops'] }), [409, 401], 'the administrator is not taken over');
    const begun = await chrome.newContext({ ignoreHTTPSErrors: true });
    const to = (await begun.request.get(api('/oidc/start'), { maxRedirects: 0 })).headers().location;
    const back = (await begun.request.get(to, { maxRedirects: 0 })).headers().location;
    const victim = await chrome.newContext({ ignoreHTTPSErrors: true });
    assert.equal((await victim.request.get(back)).status(), 403, 'another browser');
    await begun.close();
    await victim.close();
  } finally {
    provider.close();
    const headers = { 'x-berth-csrf': await csrfOf(page) };
    assert.equal((await page.request.put(api('/oidc'), { headers, data: { issuer: '' } })).status(), 200);
  }
});

test('guessing passwords is slowed down', async () => {
  const fresh = await chrome.newContext({ ignoreHTTPSErrors: true });
  const statuses = [];
  for (let n = 0; n < 7; n += 1) {
    statuses.push((await fresh.request.post(api('/session'), { data: { name: 'mallory', password: `guess ${n}` } })).status());
  }
  assert.ok(statuses.includes(429), statuses.join());
  await fresh.close();
});

test('the engine is killed and started again; the page recovers by itself', async () => {
  await go('/instances');
  await page.getByRole('link', { name: 'web', exact: true }).waitFor();
  await engine.end('SIGKILL');
  await page.getByText('The engine does not answer').waitFor();
  await engine.launch();
  await page.getByText('The engine does not answer').waitFor({ state: 'detached' });
  assert.equal(stateOf('web'), 'running', 'and so did the instance');
  engine.berth('run', '-d', '--name', 'afterwards', 'tiny', 'sleep', '1000');
  await page.getByRole('link', { name: 'afterwards', exact: true }).waitFor();
});

test('what happens while a list is on its way is not lost', async () => {
  const slow = await newPage();
  let told = false;
  slow.on('websocket', (socket) => socket.on('framereceived', ({ payload }) => (told ||= String(payload).includes('in-between'))));
  await slow.route('**/api/v1/instances', async (route) => {
    const before = await route.fetch();
    if (!told) engine.berth('run', '-d', '--name', 'in-between', 'tiny', 'sleep', '1000');
    await until('the page is told', () => told);
    await route.fulfill({ response: before });
  });
  await signIn(slow, 'ada', PASSWORD);
  await go('/instances', slow);
  await slow.getByRole('link', { name: 'in-between', exact: true }).waitFor();
  // The page may be asking again.
  await slow.unrouteAll({ behavior: 'ignoreErrors' });
  await slow.context().close();
  engine.berth('rm', '-f', 'in-between');
});

test('an instance is recreated with other settings, and the old one comes back where that fails', async () => {
  const headers = { 'x-berth-csrf': await csrfOf(page) };
  const recreate = async (id, data) => {
    const task = await (await page.request.post(api(`/instances/${id}/recreate`), { headers, data })).json();
    return until('the task ends', async () => {
      const now = await (await page.request.get(api(`/tasks/${task.id}`))).json();
      return now.state === 'running' ? null : now;
    });
  };
  const before = idOf('afterwards');
  const good = await recreate(before, { env: ['COLOUR=green'] });
  assert.equal(good.state, 'done', JSON.stringify(good));
  const next = idOf('afterwards');
  assert.notEqual(next, before);
  assert.match(engine.berth('inspect', '--format', '{{.Config.Env}}', 'afterwards'), /COLOUR=green/);
  const bad = await recreate(next, { command: ['no-such-program'] });
  assert.equal(bad.state, 'failed', JSON.stringify(bad));
  assert.equal(idOf('afterwards'), next);
  assert.equal(stateOf('afterwards'), 'running');
});

test('all pages pass axe in both themes and fit a phone', async () => {
  const web = idOf('web');
  const pages = [
    ['overview', '/', 'On the disk'], ['instances', '/instances', 'afterwards'], ['instance', `/instances/${web}`, 'Who can reach it'],
    ['scale', `/instances/${web}/scale`, 'Apply live'], ['settings', `/instances/${web}/settings`, 'Published ports'], ['snapshots', `/instances/${web}/snapshots`, 'Take a snapshot'], ['logs', `/instances/${web}/logs`, 'tick'], ['files', `/instances/${web}/files`, 'etc'],
    ['shell', `/instances/${web}/terminal`, 'connected'], ['images', '/images', 'tiny'], ['volumes', '/volumes', 'Volumes'],
    ['networks', '/networks', 'Who can reach'], ['activity', '/activity', 'instance.create'], ['host', '/settings', 'Free space'], ['projects', '/projects', 'No projects yet'], ['stacks', '/stacks', 'Stacks'], ['hosts', '/hosts', 'this one'], ['wizard', '/create', 'Where it comes from'], ['builds', '/builds', 'Build cache'], ['templates', '/templates', 'No templates yet'], ['access', '/people', 'API tokens'],
  ];
  const show = async (path, words) => {
    await go(path);
    await page.locator('main').getByText(words).first().waitFor();
  };
  const found = [];
  for (const theme of ['dark', 'light']) {
    for (const [name, path, words] of pages) {
      await show(path, words);
      for (const one of await violations()) found.push(`${name} (${theme}): ${one}`);
      if (theme === 'dark') await shot(name);
    }
    await page.getByRole('button', { name: theme === 'dark' ? 'Light' : 'Dark' }).click();
  }
  await page.setViewportSize({ width: 390, height: 844 });
  for (const [name, path, words] of pages) {
    await show(path, words);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (over > 0) found.push(`${name} is ${over} pixels wider than a phone`);
  }
  await page.setViewportSize({ width: 1280, height: 800 });
  assert.deepEqual(found, []);
});

test('every text of the pages has its Chinese', () => {
  const folder = new URL('../../web/src/', import.meta.url).pathname;
  const dictionary = readFileSync(`${folder}lib/zh.ts`, 'utf8');
  const known = new Function(`return ${dictionary.slice(dictionary.indexOf('= {') + 2)}`)();
  // Names that are the same everywhere.
  const names = new Set(['Compose', 'Dockerfile', 'PostgreSQL', 'MariaDB']);
  const missing = new Set();
  // What is said by a variable: names in lists, either of two, and what tasks do.
  const indirect = [/\b(?:name|about|title): '((?:[^'\\]|\\.)+)'/g, /\bt\([^'")]*\? '([^']*)' :/g, /\bt\([^'")]*\? '[^']*' : '([^']*)'/g];
  for (const verb of ['start', 'stop', 'restart', 'pause', 'unpause', 'kill', 'remove', 'recreate']) if (!(`instance.${verb}` in known)) missing.add(`instance.${verb}`);
  for (const name of readdirSync(folder, { recursive: true })) {
    if (!/\.(svelte|ts)$/.test(name) || name === 'lib/zh.ts') continue;
    for (const [, text] of readFileSync(folder + name, 'utf8').matchAll(/\bt\('((?:[^'\\]|\\.)*)'/g)) {
      if (!(text.replaceAll("\\'", "'") in known)) missing.add(`${name}: ${text}`);
    }
    for (const pattern of indirect) {
      for (const [, text] of readFileSync(folder + name, 'utf8').matchAll(pattern)) if (!(text.replaceAll("\\'", "'") in known) && !names.has(text)) missing.add(`${name}: ${text}`);
    }
  }
  assert.deepEqual([...missing], []);
});

test('Chinese is spoken', async () => {
  await go('/instances');
  await page.getByRole('button', { name: '中文' }).click();
  await page.getByRole('heading', { name: '实例' }).waitFor();
  await page.getByRole('button', { name: 'English' }).click();
});

test('instances are found by keyboard, and removed after a question', async () => {
  await go('/');
  await page.locator('main').focus();
  await page.keyboard.press('/');
  await page.getByPlaceholder('Go to an instance or a page').fill('web');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'web', exact: true }).waitFor();
  await page.getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click();
  assert.equal(stateOf('web'), 'running');
  await page.getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
  await page.getByText('This instance is gone').waitFor();
  assert.ok(!engine.berth('ps', '-a', '--format', '{{.Names}}').split('\n').includes('web'));
});

test('the audit log has it all', async () => {
  const entries = await (await page.request.get(api('/audit'))).json();
  const has = (act, outcome, part = '') => {
    const found = entries.some((one) => one.act === act && one.outcome.startsWith(outcome) && one.target.includes(part));
    assert.ok(found, `${act} ${outcome} ${part}`);
  };
  has('setup', 'this set-up token is not valid');
  has('setup', 'ok');
  has('instance.create', 'ok', 'web');
  has('instance.terminal', 'ok', 'web');
  has('instance.update', 'ok', 'memory');
  has('instance.files.write', 'ok', '/data/a.conf');
  has('instance.files.read', 'ok', 'web');
  has('instance.files.remove', 'ok', '/data/new one');
  has('instance.stop', '403', 'web');
  has('session.start', 'wrong');
  has('instances.bulk', 'ok', 'instance.remove');
  assert.ok(entries.every((one) => !JSON.stringify(one).includes(PASSWORD)));
});

/** Whether the last column that is seen ends where the table does. */
const columnsFill = (at) => at.locator('.rows table').evaluate((table) => {
  const last = [...table.tHead.rows[0].cells].filter((cell) => cell.offsetWidth > 0).at(-1);
  return Math.abs(last.getBoundingClientRect().right - table.getBoundingClientRect().right) < 1;
});

test('instances are grouped, and a group is folded', async () => {
  for (const [name, label] of [['grouped-a', 'berth.project=north'], ['grouped-b', 'berth.project=south'], ['grouped-c', 'other=x']]) engine.berth('create', '--name', name, '--label', label, 'tiny');
  const grouped = await newPage({ storageState: await page.context().storageState() });
  await grouped.goto(`${engine.url}/instances?q=grouped-`);
  await grouped.getByRole('link', { name: 'grouped-c', exact: true }).waitFor();
  const rows = async () => (await grouped.locator('tbody tr').allInnerTexts()).map((text) => /grouped-.|north|south|in none/.exec(text)?.[0]);
  await grouped.getByLabel('Group by').selectOption('project');
  await until('heads before rows', async () => (await rows()).join() === 'north,grouped-a,south,grouped-b,in none,grouped-c');
  const north = grouped.locator('tbody').getByRole('button', { name: 'north' });
  await north.click();
  assert.equal(await north.getAttribute('aria-expanded'), 'false');
  await until('it is folded', async () => (await rows()).join() === 'north,south,grouped-b,in none,grouped-c');
  assert.deepEqual(await violations(grouped), []);
  await shot('instances-grouped', grouped);
  await grouped.setViewportSize({ width: 390, height: 800 });
  await until('a phone has no column that is empty', () => columnsFill(grouped));
  await shot('instances-grouped-phone', grouped);
  await grouped.setViewportSize({ width: 1280, height: 800 });
  await until('and the wide table is whole', () => columnsFill(grouped));
  // Kept for the next visit.
  await grouped.reload();
  await until('it is grouped again', async () => (await rows()).join() === 'north,grouped-a,south,grouped-b,in none,grouped-c');
  await grouped.context().close();
  engine.berth('rm', 'grouped-a', 'grouped-b', 'grouped-c');
});

test('a visit asks for one script and one style, and knows from the page itself who is signed in', async () => {
  // Of a folder it is served as it lies there.
  if (process.env.BERTH_PAGES) return;
  const again = await newPage({ storageState: await page.context().storageState() });
  const asked = [];
  again.on('request', (request) => asked.push(new URL(request.url()).pathname));
  await again.goto(engine.url);
  await again.locator('.tiles b').first().waitFor();
  assert.equal(asked.filter((path) => path.endsWith('.js')).length, 1, asked.join(' '));
  assert.equal(asked.filter((path) => path.endsWith('.css')).length, 1, asked.join(' '));
  assert.ok(!asked.includes('/api/v1/entry'));
  assert.equal(await again.locator('meta[name=berth-entry]').count(), 0, 'what it was told does not stay in the page');
  await again.context().close();
  // Whoever has no session is told nothing but that, and asks.
  const stranger = await newPage();
  await stranger.goto(engine.url);
  await stranger.getByRole('button', { name: 'Sign in' }).waitFor();
  const html = await (await stranger.request.get(engine.url)).text();
  assert.match(html, /name="berth-entry" content="\{&quot;needs_setup&quot;:false,/);
  assert.doesNotMatch(html, /csrf&quot;:&quot;/);
  await stranger.context().close();
});

test('a thousand rows: only those in sight exist', async () => {
  const rows = Array.from({ length: 1000 }, (_, n) => ({
    id: String(n).padStart(64, '0'), name: `many-${n}`, image: 'tiny', image_id: null, command: '', state: 'exited', status: '', health: null, exit_code: 0,
    out_of_memory: false, error: '', created_unix_millis: Date.now() - n, started_unix_millis: 0, finished_unix_millis: 0, labels: {}, ports: [], networks: [], volumes: [],
  }));
  const crowded = await newPage();
  await crowded.route('**/api/v1/instances', (route) => route.fulfill({ json: rows }));
  await signIn(crowded, 'ada', PASSWORD);
  await go('/instances', crowded);
  await crowded.getByRole('link', { name: 'many-0', exact: true }).waitFor();
  assert.ok((await crowded.locator('tbody tr').count()) < 60);
  // Most frames of scrolling change no row: the table is laid out and drawn anew once in eight rows.
  const changed = await crowded.locator('.rows').evaluate(async (box) => {
    const drawn = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    const to = async (row) => {
      box.scrollTop = row * 41;
      await drawn();
    };
    await to(80);
    let changes = 0;
    const watch = new MutationObserver((all) => { changes += all.length; });
    watch.observe(box.querySelector('tbody'), { childList: true });
    for (let row = 81; row < 88; row += 1) await to(row);
    const within = changes;
    await to(89);
    watch.disconnect();
    return { within, beyond: changes - within };
  });
  assert.equal(changed.within, 0);
  assert.ok(changed.beyond > 0, 'and then they do');
  await crowded.locator('.rows').evaluate((box) => box.scrollTo(0, box.scrollHeight));
  await crowded.getByRole('link', { name: 'many-999', exact: true }).waitFor();
  await crowded.setViewportSize({ width: 390, height: 800 });
  await until('a phone has no column that is empty', () => columnsFill(crowded));
  await crowded.setViewportSize({ width: 1280, height: 800 });
  await crowded.getByLabel('Filter').fill('many-77');
  await crowded.getByRole('link', { name: 'many-777', exact: true }).waitFor();
  await crowded.unrouteAll({ behavior: 'ignoreErrors' });
  await crowded.context().close();
});

test('nothing broke, nothing was asked elsewhere, no script ran', () => {
  assert.deepEqual(session.broken, []);
});
