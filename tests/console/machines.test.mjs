// Machines in the browser: made by the wizard, their screen seen and typed at, their serial line, sizes, snapshots, clones, forks.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { PROGRAMS, missing, skipFor, until } from './engine.mjs';
import { counter, painter } from './guests.mjs';
import { Session } from './session.mjs';

skipFor(missing() ?? (existsSync('/usr/bin/qemu-system-x86_64') ? null : 'needs qemu-system-x86')
  ?? (existsSync(join(PROGRAMS, 'berth-vmm')) ? null : 'needs the built programs: cargo build --workspace --bins'));

let session;
let engine;
let page;
const go = (path) => session.go(path);
const machine = async (name) => (await session.get('/machines')).find((one) => one.name === name);
const idOf = async (name) => (await machine(name)).id;
const logs = (name) => engine.berth('vm', 'logs', name);
const state = (name, wanted) => until(`${name} is ${wanted}`, async () => (await machine(name))?.state === wanted);
const heading = (name) => page.getByRole('heading', { name, exact: true }).waitFor();

before(async () => {
  session = await Session.start();
  ({ engine, page } = session);
  await session.setUp();
});

after(async () => {
  for (const { name } of await session.get('/machines').catch(() => [])) engine.berth('vm', 'rm', '-f', name);
  await session?.end();
});

/** The wizard from its first step to its review. */
async function make(source, path, name, { screen = false, start = true } = {}) {
  await go('/create');
  await page.getByRole('button', { name: new RegExp(`^${source}`) }).click();
  await page.getByLabel(/on the host$/).fill(path);
  await page.getByLabel('Name', { exact: true }).fill(name);
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByLabel('Memory in MiB').fill('64');
  for (let n = 0; n < 3; n += 1) await page.getByRole('button', { name: 'Next' }).click();
  await page.getByLabel('A screen (VNC), opened in the browser').setChecked(screen);
  await page.getByRole('button', { name: 'Review' }).last().click();
  await page.getByLabel('Start it at once').setChecked(start);
}

test('a machine is made by the wizard, which shows the same as a command and a call', async () => {
  const path = painter(engine.root);
  await make('Disk image', path, 'painter', { screen: true });
  await page.getByText(`berth vm create --memory 64m --disk ${path} --display vnc --start painter`).waitFor();
  await session.accessible('the wizard of a machine');
  await page.getByRole('button', { name: 'API', exact: true }).click();
  await page.getByText(/api\/v1\/machines -d/).waitFor();
  await page.getByRole('button', { name: 'Compose', exact: true }).click();
  await page.getByText('no word for a machine').waitFor();
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await heading('painter');
  await page.getByText('runs since').waitFor();
  await page.getByAltText('Its screen, a moment ago').waitFor();
  await until('it has painted', () => logs('painter').includes('D'));
  await session.accessible('a machine');
});

test('its screen is seen, and takes keys', async () => {
  await page.getByRole('link', { name: 'Screen' }).first().click();
  await page.getByText('connected').waitFor();
  const red = () => page.locator('.view canvas').evaluate((canvas) => {
    const [r, g, b] = canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
    return r > 120 && g < 60 && b < 60;
  });
  await until('the red that it painted is there', red);
  await page.locator('.view canvas').click();
  // A key may come while the guest does not look yet: pressed until it says so.
  await until('the key arrives', async () => {
    await page.keyboard.press('x');
    return /^x/m.test(logs('painter'));
  });
  await session.shot('machine-screen');
});

test('its serial line shows what it wrote, and takes what is typed', async () => {
  await make('Disk image', counter(engine.root), 'box');
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await heading('box');
  await go(`/machines/${await idOf('box')}/serial`);
  await page.getByText('connected').waitFor();
  await page.locator('.xterm').getByText('boot A').first().waitFor();
  await page.locator('.xterm').click();
  await page.keyboard.type('hello-there');
  await page.locator('.xterm').getByText('hello-there').first().waitFor();
  // Nothing is shown that the guest has not sent back.
  await session.accessible('a serial line');
});

test('a disk image is sent by the browser, goes on after the engine was killed, and a machine is made from it', async () => {
  await go('/create');
  await page.getByRole('button', { name: /^Disk image/ }).click();
  const input = page.getByLabel('File to send');
  await input.setInputFiles({ name: 'page.qcow2', mimeType: 'application/octet-stream', buffer: Buffer.from('<html>not found</html>') });
  await page.getByRole('alert').getByText('page.qcow2 is no qcow2 image').waitFor();
  // Larger than one part: the guest's sectors, and nothing behind them.
  const image = Buffer.concat([readFileSync(counter(engine.root)), Buffer.alloc(40 << 20)]);
  const path = join(engine.root, 'sent.img');
  writeFileSync(path, image);
  // The engine goes away once a part of it is there.
  let killed = null;
  await page.route('**/uploads/*?offset=*', async (route) => {
    if (!killed && !route.request().url().endsWith('offset=0')) {
      killed = engine.end('SIGKILL').then(() => engine.launch());
      await killed;
    }
    await route.continue();
  });
  await input.setInputFiles(path);
  await page.getByRole('button', { name: 'sent.img', pressed: true }).waitFor();
  assert.ok(killed, 'it came in several parts');
  await page.unroute('**/uploads/*?offset=*');
  await session.accessible('a disk image that was sent');
  await page.getByLabel('Name', { exact: true }).fill('sent');
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByLabel('Memory in MiB').fill('64');
  await page.getByRole('button', { name: 'Review' }).last().click();
  await page.getByText('sent.img').waitFor();
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await heading('sent');
  await until('it boots', () => logs('sent').includes('boot A'));
  // One that is cancelled is gone.
  await go('/create?source=disk');
  await page.route('**/uploads/*?offset=*', () => undefined);
  await input.setInputFiles(path);
  await page.getByRole('progressbar', { name: 'Sending sent.img' }).waitFor();
  await page.getByRole('button', { name: 'Cancel' }).click();
  await until('only the whole one is left', async () => (await session.get('/uploads')).every((one) => one.kind === 'raw'));
  await page.unroute('**/uploads/*?offset=*');
  const removal = page.getByRole('button', { name: 'Remove sent.img' });
  await until('the page shows that one alone', async () => (await removal.count()) === 1);
  await removal.click();
  await until('and that one goes too', async () => (await session.get('/uploads')).length === 0);
  engine.berth('vm', 'rm', '-f', 'sent');
});

test('a cloud image is told what to do at its first start', async () => {
  await make('Disk image', counter(engine.root), 'cloudy');
  await page.getByRole('button', { name: 'Back' }).click();
  await page.getByLabel('The image has cloud-init: tell it what to do at its first start').check();
  await page.getByLabel('SSH keys that may sign in, one a line').fill('ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPlaceholderPlaceholderPlaceholderPlacehold ada');
  await page.getByLabel('User data').fill('#cloud-config\npackages: [nginx]');
  await page.getByRole('button', { name: 'Review' }).last().click();
  await page.getByText(/berth vm create[^]*--cloud-init[^]*--ssh-key/).waitFor();
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await heading('cloudy');
  const seed = join(engine.root, 'data/machines', await idOf('cloudy'), 'seed.img');
  await until('its disk of answers is there', () => existsSync(seed));
  const told = readFileSync(seed, 'latin1');
  for (const part of ['packages: [nginx]', 'ssh-ed25519 AAAA', '"local-hostname":"cloudy"', '"ethernets"', '"dhcp4":true']) assert.ok(told.includes(part), part);
  engine.berth('vm', 'rm', '-f', 'cloudy');
});

test('snapshots are taken while it runs, gone back to, and made into other machines', async () => {
  const id = await idOf('box');
  await go(`/machines/${id}/snapshots`);
  await page.getByLabel('Name of the snapshot').fill('early');
  await page.getByRole('button', { name: 'Take a snapshot' }).click();
  await page.getByRole('row', { name: /early/ }).waitFor();
  await page.getByLabel('with memory').check();
  await page.getByLabel('Name of the snapshot').fill('moment');
  await page.getByRole('button', { name: 'Take a snapshot' }).click();
  await page.getByRole('row', { name: /moment.*with memory/ }).waitFor();
  await session.accessible('snapshots of a machine');
  await session.shot('machine-snapshots');
  // Two boots later the disk has counted on; the snapshot has not.
  await page.getByRole('button', { name: 'Kill' }).click();
  await session.confirm('Kill');
  await state('box', 'exited');
  await page.getByRole('button', { name: 'Start', exact: true }).click();
  await until('it boots anew', () => logs('box').includes('boot B'));
  await page.getByRole('button', { name: 'Kill' }).click();
  await session.confirm('Kill');
  await state('box', 'exited');
  await page.getByRole('button', { name: 'Go back early' }).click();
  await session.confirm('Go back');
  await page.getByText('It is as it was at early').waitFor();
  await page.getByRole('button', { name: 'New from it early' }).click();
  await page.getByLabel('Name', { exact: true }).fill('from-early');
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByText('berth vm clone --snapshot early --start box from-early').waitFor();
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await heading('from-early');
  await until('it begins where the snapshot was', () => logs('from-early').includes('boot B'));
});

test('it is cloned, scaled, forked and made a template', async () => {
  await go(`/machines/${await idOf('box')}/snapshots`);
  await heading('box');
  await page.getByLabel('Name of the clone').fill('twin');
  await page.getByRole('button', { name: 'Clone', exact: true }).click();
  await heading('twin');
  await state('twin', 'running');
  const twin = await idOf('twin');
  await go(`/machines/${twin}/scale`);
  await page.getByLabel('Disk disk0 in GiB').fill('0.0625');
  await page.getByText('berth vm update --disk disk0=64m twin').waitFor();
  await session.accessible('the scale of a machine');
  await page.getByRole('button', { name: 'Apply', exact: true }).click();
  await page.getByText('Applied live').waitFor();
  assert.equal((await machine('twin')).disks[0].size_bytes, 64 << 20);
  await page.getByLabel('Memory in MiB').fill('96');
  await page.getByRole('button', { name: 'Apply', exact: true }).click();
  await until('the memory is noted', async () => (await machine('twin')).memory_bytes === 96 << 20);
  const before = (await session.get('/machines')).length;
  await go(`/machines/${twin}/snapshots`);
  await page.getByRole('button', { name: 'Fork', exact: true }).click();
  await page.getByText('1 forks run').waitFor();
  assert.equal((await session.get('/machines')).length, before + 1);
  await go(`/machines/${await idOf('box')}/snapshots`);
  await heading('box');
  await page.getByRole('button', { name: 'Make a template', exact: true }).click();
  await session.confirm('Make a template');
  await go('/templates');
  await page.getByRole('link', { name: 'box', exact: true }).waitFor();
  await session.accessible('templates');
  await session.shot('templates');
  await page.getByRole('button', { name: 'Clone box' }).click();
  await page.getByLabel('Name', { exact: true }).fill('child');
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await heading('child');
  await state('child', 'running');
});

test('the engine is killed in between: the machine goes on and the page comes back to it', async () => {
  await go(`/machines/${await idOf('child')}/serial`);
  await page.getByText('connected').waitFor();
  await engine.end('SIGKILL');
  await page.getByText('The engine does not answer').waitFor();
  await engine.launch();
  await page.getByText('The engine does not answer').waitFor({ state: 'detached' });
  await page.getByRole('button', { name: 'Open again' }).click();
  await page.getByText('connected').waitFor();
  await page.locator('.xterm').click();
  // The first bytes may be lost on the way: typed until they come back.
  await until('the guest sends it back', async () => {
    await page.keyboard.type('again ');
    return (await page.locator('.xterm').getByText('again').count()) > 0;
  });
  assert.equal((logs('child').match(/boot /g) ?? []).length, 1, 'it has not booted again');
});

test('a viewer sees machines and reaches none, and a hostile name is text', async () => {
  await session.call('POST', '/users', { name: 'vic', role: 'viewer', password: 'correct horse battery' });
  const other = await session.newPage();
  await session.signIn(other, 'vic');
  const id = await idOf('child');
  await session.go(`/machines/${id}`, other);
  await other.getByRole('heading', { name: 'child', exact: true }).waitFor();
  assert.equal(await other.getByRole('button', { name: 'Stop' }).count(), 0);
  assert.equal(await other.getByRole('link', { name: 'Serial line' }).count(), 0);
  for (const [method, path, body] of [['POST', 'kill', {}], ['POST', 'snapshots', { name: 'x' }], ['POST', 'clone', {}], ['POST', 'fork', { names: [''] }], ['PATCH', '', { cpus: 2 }], ['DELETE', '', undefined]]) {
    assert.equal((await session.call(method, `/machines/${id}${path && `/${path}`}`, body, other)).status(), 403, path);
  }
  for (const stream of ['serial', 'display']) assert.equal((await other.request.get(session.api(`/machines/${id}/${stream}`))).status(), 403, stream);
  await other.context().close();
  await session.call('POST', `/machines/${id}/snapshots`, { name: '<img src=x onerror=alert(1)>' });
  const bad = await session.call('POST', `/machines/${id}/rename`, { name: '<b>x' });
  assert.ok(bad.status() >= 400);
  await session.go(`/machines/${id}/snapshots`);
  await heading('child');
});

test('it is removed after a question', async () => {
  await go(`/machines/${await idOf('child')}`);
  await page.getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click();
  assert.ok(await machine('child'));
  await page.getByRole('button', { name: 'Remove' }).click();
  await session.confirm('Remove');
  await until('it is gone', async () => !(await machine('child')));
  await heading('Instances');
});

test('nothing broke', () => assert.deepEqual(session.broken, []));
