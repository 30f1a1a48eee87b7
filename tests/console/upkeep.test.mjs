// What keeps a host in order over time: notes, newer images, snapshots by a schedule and with an end, stacks from git; what goes with what it is about.

import assert from 'node:assert/strict';
import { existsSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { hasCompose, missing, skipFor, until } from './engine.mjs';
import { Repositories } from './git.mjs';
import { counter } from './guests.mjs';
import { Registry } from './registry.mjs';
import { Session } from './session.mjs';

skipFor(missing());

const HOUR_MILLIS = 3_600_000;
const second = () => Math.floor(Date.now() / 1000);
const anotherSecond = async () => {
  const now = second();
  await until('another second', () => second() > now);
};
const QEMU = existsSync('/usr/bin/qemu-system-x86_64') ? false : 'needs qemu-system-x86';
let session;
let engine;
let page;
let registry;
const go = (path) => session.go(path);
const get = (path) => session.get(path);
const json = async (method, path, data) => {
  const answer = await session.call(method, path, data);
  assert.equal(answer.status(), 200, `${method} ${path}: ${await answer.text()}`);
  return answer.json();
};
const ended = (task) => until(`task ${task.act} ends`, async () => {
  const now = await get(`/tasks/${task.id}`);
  return now.state === 'running' ? null : now;
});
const idOf = (name) => session.idOf(name);
const envOf = (name) => engine.berth('inspect', '--format', '{{join .Config.Env " "}}', name);
// By the API: the registry is in this process, which a program that is waited for would hold up.
const pull = async (name) => assert.equal((await ended(await json('POST', '/images/pull', { name }))).state, 'done');
const note = async (name) => (await get(`/instances/${idOf(name)}/note`)).text;

before(async () => {
  session = await Session.start();
  ({ engine, page } = session);
  await session.setUp();
  registry = await Registry.start(join(engine.root, 'tiny.tar'));
});

after(async () => {
  await registry?.end();
  for (const name of engine ? engine.berth('vm', 'ls', '-q').split('\n').filter(Boolean) : []) engine.berth('vm', 'rm', '-f', name);
  await session?.end();
});

test('a note is written, read by those who see the instance, and goes on to the one that replaces it', async () => {
  engine.berth('run', '-d', '--name', 'noted', 'tiny', 'sleep', '100000');
  const words = 'Ask Bob before you stop it.\n<img src=x onerror=alert(1)> <b>bold</b>';
  await go(`/instances/${idOf('noted')}`);
  await page.getByRole('button', { name: 'Add a note' }).click();
  await page.getByLabel('Note', { exact: true }).fill(words);
  await session.accessible('a note being written');
  await page.getByRole('button', { name: 'Keep it' }).click();
  await page.getByText('Ask Bob before you stop it.').waitFor();
  await page.getByText('<img src=x onerror=alert(1)> <b>bold</b>').waitFor();
  await session.accessible('a note');
  await session.shot('note');
  assert.equal(await note('noted'), words);
  // Another page that shows it is told.
  await json('PUT', `/instances/${idOf('noted')}/note`, { text: 'Ask Carol.' });
  await page.getByText('Ask Carol.').waitFor();
  // A re-creation here, and one as compose makes it.
  const before = idOf('noted');
  assert.equal((await ended(await json('POST', `/instances/${before}/recreate`, { env: ['A=1'] }))).state, 'done');
  await page.waitForURL((url) => url.pathname === `/instances/${idOf('noted')}/summary`);
  await page.getByText('Ask Carol.').waitFor();
  assert.notEqual(idOf('noted'), before);
  const aside = `${idOf('noted').slice(0, 12)}_noted`;
  engine.berth('rename', 'noted', aside);
  engine.berth('run', '-d', '--name', 'noted', 'tiny', 'sleep', '100000');
  assert.equal(await note('noted'), '');
  engine.berth('rm', '-f', aside);
  await until('the note goes on', async () => (await note('noted')) === 'Ask Carol.');
  // Renamed for good, it stays with it; removed for good, the next one of that name has none.
  engine.berth('rename', 'noted', 'renamed');
  assert.equal(await note('renamed'), 'Ask Carol.');
  const gone = idOf('renamed');
  engine.berth('rm', '-f', 'renamed');
  engine.berth('run', '-d', '--name', 'renamed', 'tiny', 'sleep', '100000');
  assert.equal(await note('renamed'), '');
  assert.equal((await session.call('GET', `/instances/${gone}/note`)).status(), 404);
  // Too long is refused, and a viewer reads it and writes none.
  assert.equal((await session.call('PUT', '/instances/renamed/note', { text: 'x'.repeat(8193) })).status(), 400);
  await json('PUT', '/instances/renamed/note', { text: 'for all to read' });
  await json('POST', '/users', { name: 'vera', role: 'viewer', password: 'correct horse battery' });
  const other = await session.newPage();
  await session.signIn(other, 'vera');
  await session.go(`/instances/${idOf('renamed')}`, other);
  await other.getByText('for all to read').waitFor();
  assert.equal(await other.getByRole('button', { name: 'Change the note' }).count(), 0);
  assert.equal((await session.call('PUT', `/instances/${idOf('renamed')}/note`, { text: 'mine' }, other)).status(), 403);
  await other.context().close();
  const audit = await get('/audit');
  assert.ok(audit.some((entry) => entry.act === 'instance.note') && !JSON.stringify(audit).includes('Carol'), 'what a note says is not in the audit log');
  // Removed while nobody listens: gone with the next engine's first look.
  const lost = idOf('renamed');
  await engine.end();
  await engine.launch({ console: false });
  engine.berth('rm', '-f', 'renamed');
  await engine.end();
  await engine.launch();
  engine.berth('run', '-d', '--name', 'renamed', 'tiny', 'sleep', '100000');
  assert.equal(await note('renamed'), '', lost);
  engine.berth('rm', '-f', 'renamed');
});

test('a newer image is asked for, shown, and brought to an instance; the old one comes back where it is not well', async () => {
  const image = `${registry.host}/shop/app:1`;
  registry.put('shop/app:1', { Env: ['VERSION=1'], Cmd: ['sleep', '100000'] });
  await pull(image);
  engine.berth('run', '-d', '--name', 'app', '-e', 'MINE=kept', '-m', '48m', image);
  const pinned = `${registry.host}/shop/app@${registry.put('shop/app:1', { Env: ['VERSION=1'], Cmd: ['sleep', '100000'] })}`;
  await pull(pinned);
  engine.berth('run', '-d', '--name', 'pinned', pinned);
  const state = async () => (await get('/updates')).images.find((one) => one.name === image);
  const ask = async () => assert.equal((await ended(await json('POST', '/updates'))).state, 'done');
  registry.asked.length = 0;
  await ask();
  assert.equal((await state()).state, 'current');
  assert.deepEqual(registry.asked.filter((one) => one !== 'GET /v2/'), ['HEAD /v2/shop/app/manifests/1'], 'one question, no pull; what is pinned or built here is not asked for');
  await go('/');
  await page.getByText('The last hour').waitFor();
  assert.equal(await page.getByText('Newer images').count(), 0, 'nothing waits, nothing is said');
  registry.put('shop/app:1', { Env: ['VERSION=2'], Cmd: ['sleep', '100000'] });
  await go('/images');
  await page.getByRole('button', { name: 'Ask now' }).click();
  await page.getByText('a newer one waits at its registry').waitFor();
  await session.accessible('newer images');
  await session.shot('updates');
  assert.deepEqual((await state()).behind.map((one) => one.name), ['app'], 'and not the pinned one');
  await go('/');
  await page.getByText('1 instance is behind').waitFor();
  await page.getByRole('button', { name: `Update ${image}` }).waitFor();
  await session.accessible('the overview with an update');
  await go(`/instances/${idOf('app')}`);
  const old = idOf('app');
  await page.getByRole('status').getByRole('button', { name: 'Update', exact: true }).click();
  await session.confirm('Update');
  await page.waitForURL((url) => url.pathname.startsWith('/instances/') && !url.pathname.includes(old));
  assert.match(envOf('app'), /MINE=kept.*VERSION=2|VERSION=2.*MINE=kept/);
  assert.equal(engine.berth('inspect', '--format', '{{.HostConfig.Memory}}', 'app'), String(48 << 20), 'all else is as it was');
  await until('nothing waits any more', async () => (await state()).state === 'current');
  await page.getByRole('status').getByRole('button', { name: 'Update', exact: true }).waitFor({ state: 'detached' });
  // One that ends at once, one that never gets healthy: the old one is back, and runs.
  const good = idOf('app');
  for (const [config, said] of [
    [{ Env: ['VERSION=3'], Cmd: ['sh', '-c', 'exit 3'] }, /ended with code 3/],
    [{ Env: ['VERSION=4'], Cmd: ['sleep', '100000'], Healthcheck: { Test: ['CMD-SHELL', 'exit 1'], Interval: 300_000_000, Retries: 2 } }, /not healthy/],
  ]) {
    registry.put('shop/app:1', config);
    await ask();
    const task = await ended(await json('POST', `/instances/${idOf('app')}/upgrade`));
    assert.equal(task.state, 'failed');
    assert.match([task.error.message, ...task.error.causes].join(': '), /the old one is back/);
    assert.match([task.error.message, ...task.error.causes].join(': '), said);
    assert.equal(idOf('app'), good);
    assert.equal(session.stateOf('app'), 'running');
    assert.equal((await state()).state, 'here', 'it has been fetched, and the instance is not made from it');
  }
  // Pulled on the host: nobody needs to be asked to know that.
  registry.put('shop/app:1', { Env: ['VERSION=5'], Cmd: ['sleep', '100000'] });
  await pull(image);
  await ask();
  assert.equal((await state()).state, 'here');
  assert.equal((await ended(await json('POST', '/instances/app/upgrade'))).state, 'done');
  assert.match(envOf('app'), /VERSION=5/);
  assert.equal((await ended(await json('POST', '/instances/app/upgrade'))).lines.some((line) => /has the newest/.test(line)), true);
  // A registry that does not know it any more: it says so, and nothing else changes.
  registry.asked.length = 0;
  const host = registry;
  await registry.end();
  registry = null;
  await ask();
  assert.equal((await state()).state, 'unknown');
  assert.match((await state()).error, /cannot look up/);
  await go('/images');
  await page.getByText(/cannot look up/).first().waitFor();
  assert.equal(session.stateOf('app'), 'running');
  assert.equal(host.asked.length, 0);
  // How often: an administrator says it, and others do not.
  await page.getByLabel('How often registries are asked').selectOption({ label: 'every week' });
  await until('it is kept', async () => (await get('/updates')).every_hours === 168);
  assert.equal((await session.call('PUT', '/updates', { every_hours: 9000 })).status(), 400);
  engine.berth('rm', '-f', 'app', 'pinned');
});

test('snapshots are taken by a schedule, the old ones go, and what was missed is made once', async () => {
  engine.berth('run', '-d', '--name', 'shot', 'tiny', 'sleep', '100000');
  const id = idOf('shot');
  const rows = () => get(`/instances/${idOf('shot')}/snapshots`);
  const own = async () => (await rows()).filter((one) => one.scheduled);
  for (const bad of [{ every_hours: 0, keep: 1 }, { every_hours: 1, keep: 0 }]) assert.equal((await session.call('PUT', `/instances/${id}/schedule`, bad)).status(), 400);
  await go(`/instances/${id}/snapshots`);
  await page.getByLabel('Name of the snapshot').fill('mine');
  await page.getByRole('button', { name: 'Take a snapshot' }).click();
  await page.getByText('snapshot/shot:mine').waitFor();
  await page.getByRole('button', { name: 'Take snapshots by a schedule' }).click();
  await page.getByLabel('Keep').fill('2');
  await session.accessible('a schedule of snapshots');
  await page.getByRole('button', { name: 'Apply', exact: true }).click();
  await page.getByText('every day').waitFor();
  await session.shot('snapshot-schedule');
  const due = (millis) => json('PUT', `/instances/${id}/schedule`, { begin_unix_millis: millis && Date.now() + millis, every_hours: 1, keep: 2 });
  for (const count of [1, 2, 3]) {
    const last = (await get(`/instances/${id}/schedule`)).last_unix_millis;
    await due(0);
    await until(`snapshot ${count} is made`, async () => (await get(`/instances/${id}/schedule`)).last_unix_millis > last);
    assert.equal((await get(`/instances/${id}/schedule`)).last_error, '');
    // Their names say the second.
    await anotherSecond();
  }
  assert.equal((await own()).length, 2, 'of three that were made');
  assert.equal((await rows()).length, 3, 'the one that somebody made by hand stays');
  await page.getByText('by its schedule').first().waitFor();
  // Killed before its time, it is made by whoever runs then.
  const newest = (await own())[0].name;
  await due(1500);
  await engine.end('SIGKILL');
  await engine.launch({ console: false });
  await until('it is made without a console', () => engine.berth('images', '--format', '{{.Tag}}', 'snapshot/shot').split('\n').filter((tag) => tag.startsWith('auto-')).sort().at(-1) > newest);
  await engine.end();
  await engine.launch();
  await until('the page is back', async () => (await own())[0].name > newest);
  // It goes on to the one that replaces it, and goes with it.
  assert.equal((await ended(await json('POST', `/instances/${id}/recreate`, { env: ['A=2'] }))).state, 'done');
  assert.equal((await get(`/instances/${idOf('shot')}/schedule`)).every_hours, 1);
  engine.berth('rm', '-f', 'shot');
  await until('its schedule goes', async () => !(await get('/schedules')).some((one) => one.name === 'shot'));
});

test('a snapshot with an end goes by itself, and nothing that was made from it', async () => {
  engine.berth('run', '-d', '--name', 'brief', 'tiny', 'sleep', '100000');
  const id = idOf('brief');
  assert.equal((await session.call('POST', `/instances/${id}/snapshots`, { name: 'past', until_unix_millis: Date.now() - 1 })).status(), 400);
  await go(`/instances/${id}/snapshots`);
  await page.getByLabel('Name of the snapshot').fill('week');
  await page.getByLabel('How long it stays').selectOption({ label: 'goes after 7 days' });
  await page.getByRole('button', { name: 'Take a snapshot' }).click();
  await page.getByText(/^until /).waitFor();
  const end = Date.now() + 15_000;
  for (const name of ['used', 'free']) await json('POST', `/instances/${id}/snapshots`, { name, until_unix_millis: end });
  // Made from one that ends: a snapshot of that has no end of its own.
  engine.berth('run', '-d', '--name', 'heir', 'snapshot/brief:used', 'sleep', '100000');
  await json('POST', `/instances/${idOf('heir')}/snapshots`, { name: 'stays' });
  engine.berth('tag', 'snapshot/brief:free', 'kept/by-hand:1');
  await engine.end();
  await until('their time is over', () => Date.now() > end);
  await engine.launch();
  const tags = () => engine.berth('images', '--format', '{{.Repository}}:{{.Tag}}').split('\n');
  await until('it is gone', () => !tags().includes('snapshot/brief:free'));
  for (const name of ['snapshot/brief:used', 'snapshot/brief:week', 'snapshot/heir:stays', 'kept/by-hand:1']) assert.ok(tags().includes(name), `${name} stays`);
  engine.berth('rm', '-f', 'brief', 'heir');
});

test('a machine has a schedule too', { skip: QEMU }, async () => {
  engine.berth('vm', 'create', '--disk', counter(engine.root), '-m', '64m', 'box');
  const { id } = (await get('/machines')).find((one) => one.name === 'box');
  await go(`/machines/${id}/snapshots`);
  engine.berth('vm', 'snapshot', 'box', 'mine');
  await page.getByRole('button', { name: 'Take snapshots by a schedule' }).waitFor();
  for (const count of [1, 2, 3]) {
    const last = (await get(`/instances/${id}/schedule`))?.last_unix_millis ?? 0;
    await json('PUT', `/instances/${id}/schedule`, { begin_unix_millis: 0, every_hours: 24, keep: 2 });
    await until(`snapshot ${count} is made`, async () => (await get(`/instances/${id}/schedule`)).last_unix_millis > last);
    assert.equal((await get(`/instances/${id}/schedule`)).last_error, '');
    await anotherSecond();
  }
  const names = (await get(`/machines/${id}/snapshots`)).map((one) => one.name);
  assert.equal(names.filter((name) => name.startsWith('auto-')).length, 2);
  assert.ok(names.includes('mine'));
  await page.getByText('every day').waitFor();
  await page.getByText(names.at(-1)).waitFor();
});

test('what is kept about a volume goes with it, whoever removes it, and a project is removed by a task', async () => {
  await json('POST', '/projects', { name: 'loft' });
  for (const name of ['loft-a', 'loft-b']) {
    await json('POST', '/volumes', { name, project: 'loft' });
    await json('PUT', `/volumes/${name}/schedule`, { begin_unix_millis: Date.now() + HOUR_MILLIS, every_hours: 1, keep: 1 });
  }
  const scheduled = async () => (await get('/schedules')).map((one) => one.volume).filter((name) => name.startsWith('loft')).sort();
  assert.deepEqual(await scheduled(), ['loft-a', 'loft-b']);
  engine.berth('volume', 'rm', 'loft-a');
  await until('its schedule is gone', async () => (await scheduled()).join() === 'loft-b');
  const task = await json('DELETE', '/projects/loft?contents=remove');
  assert.equal(task.act, 'project.remove');
  const done = await ended(task);
  assert.equal(done.state, 'done');
  assert.deepEqual(done.lines, ['volume loft-b is removed']);
  assert.deepEqual(await scheduled(), []);
  assert.equal((await get('/projects')).some((one) => one.name === 'loft'), false);
});

test('a stack comes from a git repository, stays at its commit, and is brought to the next one', { skip: !hasCompose() && 'needs the compose plugin (docker-compose, or BERTH_COMPOSE)' }, async () => {
  const secret = 'a-token-of-somebody';
  const host = await Repositories.start(engine.root, secret);
  try {
    const text = (colour) => `services:\n  web:\n    image: tiny\n    command: sleep 100000\n    environment: { COLOUR: ${colour} }\n`;
    const first = host.commit('shop', 'red <img src=x onerror=alert(1)>', { 'deploy/compose.yaml': text('red'), 'large.yaml': '#'.repeat((512 << 10) + 1), 'none.yaml': Buffer.from([0xff, 0xfe, 0]) });
    await go('/stacks/new');
    await page.getByLabel('from a git repository').check();
    await page.getByLabel('Name', { exact: true }).fill('gitted');
    await page.getByLabel('Repository', { exact: true }).fill(`${host.url}/shop`);
    await page.getByLabel('File in it').fill('deploy/compose.yaml');
    await page.getByRole('button', { name: 'Read it' }).click();
    await page.getByText('red <img src=x onerror=alert(1)>').waitFor();
    assert.match(await page.getByLabel('Compose file').inputValue(), /COLOUR: red/);
    await page.getByRole('img', { name: /web/ }).waitFor();
    await session.accessible('a stack from git');
    await session.shot('stack-git');
    await page.getByRole('button', { name: 'Put it up' }).click();
    await page.getByRole('link', { name: 'gitted-web-1' }).waitFor();
    await until('it is up', async () => (await get('/tasks')).every((task) => task.state !== 'running'));
    assert.match(envOf('gitted-web-1'), /COLOUR=red/);
    assert.deepEqual([(await get('/stacks/gitted')).git.commit, (await get('/stacks/gitted')).git.token], [first, false]);
    // The repository goes on; the stack stays until somebody wants it to follow.
    const second = host.commit('shop', 'green', { 'deploy/compose.yaml': text('green') });
    assert.equal((await ended(await json('PUT', '/stacks/gitted', { git: { url: `${host.url}/shop`, path: 'deploy/compose.yaml', commit: first } }))).state, 'done');
    assert.match(envOf('gitted-web-1'), /COLOUR=red/, 'what is pinned is what is put up');
    await go('/stacks');
    await go('/stacks/gitted');
    await page.getByRole('button', { name: 'Update from git' }).click();
    await page.getByText(`not up yet: ${first.slice(0, 12)} is`).waitFor();
    await page.getByRole('button', { name: 'Apply the changes' }).click();
    await until('it is green', () => {
      try {
        return /COLOUR=green/.test(engine.berth('inspect', '--format', '{{join .Config.Env " "}}', ...engine.berth('ps', '-q', '--filter', 'label=com.docker.compose.project=gitted').split('\n').filter(Boolean)));
      } catch {
        return false;
      }
    });
    await until('it is kept', async () => (await get('/stacks/gitted')).git.commit === second);
    // What a stranger can put there, and what cannot be read.
    const read = (git) => session.call('POST', '/stacks/git', { git: { url: `${host.url}/shop`, path: 'deploy/compose.yaml', ...git } });
    const refused = async (git, words) => {
      const answer = await read(git);
      assert.ok(answer.status() >= 400, JSON.stringify(git));
      const said = await answer.text();
      assert.match(said, words);
      assert.ok(!said.includes('root:'), 'nothing of this host');
    };
    symlinkSync('/etc/passwd', join(host.root, 'shop/link.yaml'));
    host.commit('shop', 'a link', { '.gitattributes': '* filter=evil', '.gitmodules': '[submodule "x"]\n\tpath = x\n\turl = file:///etc\n', 'hooks/post-checkout': '#!/bin/sh\ntouch /var/tmp/berth-hooked' });
    await refused({ path: 'large.yaml' }, /at most 524288 bytes/);
    await refused({ path: 'none.yaml' }, /no text/);
    await refused({ path: 'deploy' }, /there is no file deploy/);
    await refused({ path: 'nothing.yaml' }, /there is no file nothing\.yaml/);
    await refused({ branch: 'nothing' }, /cannot read/);
    await refused({ commit: '0'.repeat(40) }, /cannot read/);
    await refused({ url: `${host.url}/nothing` }, /cannot read/);
    await refused({ url: `file://${host.root}/shop` }, /no repository that can be read/);
    await refused({ url: 'http://127.0.0.1:1/x' }, /cannot read/);
    assert.equal((await (await read({ path: 'link.yaml' })).json()).text, '/etc/passwd', 'a link is its text, and is not followed');
    const followed = await session.call('PUT', '/stacks/linked', { git: { url: `${host.url}/shop`, path: 'link.yaml' } });
    assert.equal(followed.status(), 400, await followed.text());
    assert.equal(existsSync('/var/tmp/berth-hooked'), false);
    // One that not everybody may read; its token is shown to nobody.
    host.commit('private', 'hidden', { 'compose.yaml': text('grey') });
    const there = { url: `${host.url}/private`, path: 'compose.yaml' };
    await refused(there, /cannot read/);
    assert.equal((await ended(await json('PUT', '/stacks/hidden', { git: { ...there, token: secret } }))).state, 'done');
    assert.equal((await json('POST', '/stacks/git', { stack: 'hidden', git: there })).git.subject, 'hidden', 'the kept token is used');
    assert.equal((await session.call('POST', '/stacks/git', { stack: 'hidden', git: { ...there, url: `${host.url}/private/.git` } })).status(), 400, 'for its own repository only');
    for (const path of ['/stacks/hidden', '/stacks', '/audit', '/tasks']) assert.ok(!JSON.stringify(await get(path)).includes(secret), path);
    assert.equal((await get('/stacks/hidden')).git.token, true);
    assert.deepEqual(readdirSync('/tmp').filter((name) => name.startsWith('berth-git-')), [], 'nothing of a repository stays');
    for (const name of ['gitted', 'hidden']) assert.equal((await ended(await json('DELETE', `/stacks/${name}`))).state, 'done');
  } finally {
    await host.end();
  }
});

test('nothing broke, and no script ran', () => assert.deepEqual(session.broken, []));
