// The console in a real browser against a real engine: what an operator does, and what must not happen.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { Engine, axeSource, browser, missing, until } from './engine.mjs';

const why = missing();
if (why) {
  console.log(`skipped: ${why}`);
  process.exit(0);
}

/** Where pictures for the documents go; none are taken without it. */
const SHOTS = process.env.BERTH_SHOTS;
const PASSWORD = 'correct horse battery';
let engine;
let chrome;
let page;
const broken = [];

async function newPage(options = {}) {
  const context = await chrome.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 800 }, colorScheme: 'dark', locale: 'en-GB', ...options });
  const opened = await context.newPage();
  opened.setDefaultTimeout(20_000);
  // A script from a name or a log would show itself here, and so would anything that the content policy refuses.
  opened.on('pageerror', (error) => broken.push(`page error: ${error.message}`));
  opened.on('dialog', (dialog) => {
    broken.push(`a script ran: ${dialog.message()}`);
    void dialog.dismiss();
  });
  opened.on('console', (message) => {
    if (/Content.Security.Policy|Refused to/i.test(message.text())) broken.push(message.text());
  });
  opened.on('request', (request) => {
    if (!request.url().startsWith(engine.url) && !/^(data|blob|wss):/.test(request.url())) broken.push(`asked elsewhere: ${request.url()}`);
  });
  return opened;
}

async function go(path, at = page) {
  await at.evaluate((to) => {
    history.pushState(null, '', to);
    dispatchEvent(new PopStateEvent('popstate'));
  }, path);
}

async function signIn(at, name, password) {
  await at.goto(engine.url);
  await at.getByLabel('Name').fill(name);
  await at.getByLabel('Password').fill(password);
  await at.getByRole('button', { name: 'Sign in' }).click();
  await at.getByRole('heading', { name: 'Overview' }).waitFor();
}

const idOf = (name) => engine.berth('inspect', '--format', '{{.Id}}', name);
const stateOf = (name) => engine.berth('inspect', '--format', '{{.State.Status}}', name);
const api = (path) => `${engine.url}/api/v1${path}`;
const csrfOf = async (at) => (await (await at.request.get(api('/session'))).json()).csrf;

async function shot(name, at = page) {
  if (!SHOTS) return;
  mkdirSync(SHOTS, { recursive: true });
  await at.screenshot({ path: `${SHOTS}/${name}.png` });
}

async function violations(at = page) {
  if (!(await at.evaluate(() => 'axe' in window))) await at.evaluate(axeSource());
  return at.evaluate(async () => {
    const result = await window.axe.run(document, { resultTypes: ['violations'] });
    return result.violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => node.html).join(' | ')}`);
  });
}

const accessible = async (what) => assert.deepEqual(await violations(), [], `axe on ${what}`);

before(async () => {
  engine = await Engine.start();
  chrome = await browser();
  page = await newPage();
});

after(async () => {
  await chrome?.close();
  await engine?.clear();
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

test('it is scaled live', async () => {
  const started = engine.berth('inspect', '--format', '{{.State.StartedAt}}', 'web');
  await go(`/instances/${idOf('web')}/scale`);
  await page.getByLabel('Exactly, in MiB').fill('96');
  await page.getByText('berth update --memory 96m').waitFor();
  await page.getByRole('button', { name: 'Apply live' }).click();
  await page.getByText('Applied live').waitFor();
  assert.equal(engine.berth('inspect', '--format', '{{.HostConfig.Memory}}', 'web'), String(96 << 20));
  assert.equal(engine.berth('inspect', '--format', '{{.State.StartedAt}}', 'web'), started, 'and goes on');
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
    ['scale', `/instances/${web}/scale`, 'Apply live'], ['settings', `/instances/${web}/settings`, 'Clone and start'], ['logs', `/instances/${web}/logs`, 'tick'],
    ['shell', `/instances/${web}/terminal`, 'connected'], ['images', '/images', 'tiny'], ['volumes', '/volumes', 'Volumes'],
    ['networks', '/networks', 'Who can reach'], ['activity', '/activity', 'instance.create'], ['host', '/settings', 'Free space'],
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
  has('instance.stop', '403', 'web');
  has('session.start', 'wrong');
  has('instances.bulk', 'ok', 'instance.remove');
  assert.ok(entries.every((one) => !JSON.stringify(one).includes(PASSWORD)));
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
  await crowded.locator('.rows').evaluate((box) => box.scrollTo(0, box.scrollHeight));
  await crowded.getByRole('link', { name: 'many-999', exact: true }).waitFor();
  await crowded.getByLabel('Filter').fill('many-77');
  await crowded.getByRole('link', { name: 'many-777', exact: true }).waitFor();
  await crowded.context().close();
});

test('nothing broke, nothing was asked elsewhere, no script ran', () => {
  assert.deepEqual(broken, []);
});
