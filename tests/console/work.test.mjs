// What operators do with images, volumes and networks in the browser: builds, snapshots, backups, the map, live settings.

import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { missing, skipFor, until } from './engine.mjs';
import { Session } from './session.mjs';

skipFor(missing());

let session;
let engine;
let page;
const go = (path) => session.go(path);
const heading = (name) => page.getByRole('heading', { name, exact: true }).waitFor();
const inside = (name, ...command) => engine.berth('exec', name, ...command);

before(async () => {
  session = await Session.start();
  ({ engine, page } = session);
  await session.setUp();
});

after(() => session?.end());

test('an image is built from a Dockerfile and a folder, and its steps are seen', async () => {
  const folder = join(engine.root, 'context');
  mkdirSync(join(folder, 'sub'), { recursive: true });
  // A name that does not fit into a plain header of tar.
  const long = `${'long-'.repeat(25)}name`;
  writeFileSync(join(folder, 'sub', long), 'from the folder\n');
  await go('/builds');
  await page.getByText('Nothing was built here yet').waitFor();
  await page.getByRole('button', { name: 'Build an image' }).click();
  await page.getByLabel('Dockerfile').fill(`FROM tiny\nARG COLOUR=grey\nRUN echo "<img src=x onerror=alert(1)> $COLOUR"\nCOPY sub/${long} /copied\n`);
  await page.getByLabel('Name of the image').fill('shop/web:1');
  await page.getByLabel('Folder with its files').setInputFiles(folder);
  await page.getByRole('button', { name: 'More …' }).click();
  await page.getByLabel('Arguments').fill('COLOUR=green');
  await page.getByRole('button', { name: 'Build', exact: true }).click();
  await page.getByText(/shop\/web:1 sha256:/).waitFor();
  const step = page.getByRole('button', { name: /RUN echo/ });
  await step.click();
  await page.getByRole('log').getByText('<img src=x onerror=alert(1)> green').waitFor();
  await session.accessible('a build');
  await session.shot('build');
  assert.equal(engine.berth('run', '--rm', 'shop/web:1', 'cat', '/copied'), 'from the folder');
  // Once more: all of it is in the cache.
  await page.getByRole('button', { name: 'Build', exact: true }).click();
  await until('the second build', async () => (await session.get('/builds')).length === 2);
  await until('it came from the cache', async () => (await session.get('/builds'))[0].cached >= 2);
  // One that fails says where.
  await page.getByLabel('Dockerfile').fill('FROM tiny\nRUN exit 7\n');
  await page.getByRole('button', { name: 'Build', exact: true }).click();
  await page.getByRole('alert').getByText('ended with code 7').waitFor();
  await page.getByRole('region', { name: 'Dockerfile' }).getByText('RUN exit 7').waitFor();
  await page.getByText('for the next build').or(page.getByText('an image needs it')).first().waitFor();
});

test('the wizard builds a Dockerfile and starts what comes of it, and hands a compose file on', async () => {
  await go('/create');
  await page.getByRole('button', { name: /^Dockerfile/ }).click();
  await page.getByLabel('Dockerfile').fill('FROM tiny\nCMD ["sleep", "1000"]\n');
  await page.getByLabel('Name of the image').fill('sleeper');
  await page.getByRole('button', { name: 'Build', exact: true }).click();
  await page.getByText(/sleeper:latest sha256:/).waitFor();
  await page.getByLabel('Name', { exact: true }).fill('built');
  await page.getByRole('button', { name: 'Review' }).last().click();
  await page.getByText(/berth run[^]*--name built[^]*sleeper/).waitFor();
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await heading('built');
  await page.getByText('runs since').waitFor();
  await go('/create');
  await page.getByRole('button', { name: /^Compose file/ }).click();
  await page.getByLabel('Compose file').fill('services: { handed: { image: tiny } }');
  await page.getByRole('button', { name: 'Check it' }).click();
  await heading('New stack');
  assert.equal(await page.getByLabel('Compose file').inputValue(), 'services: { handed: { image: tiny } }');
  // One switch: the same image in a machine of its own, said in all three ways.
  await go('/create?image=tiny');
  await page.getByRole('button', { name: 'Machine', exact: true }).click();
  await page.getByRole('button', { name: 'Review' }).last().click();
  await page.getByText(/berth run[^]*--isolation vm/).waitFor();
});

test('a snapshot of an instance is taken, made into another, and gone back to', async () => {
  engine.berth('run', '-d', '--name', 'keeper', '-v', 'keeper-data:/data', 'tiny', 'sleep', '1000');
  inside('keeper', 'sh', '-c', 'echo good > /state; echo volume > /data/x');
  await go(`/instances/${session.idOf('keeper')}/snapshots`);
  await page.getByLabel('Name of the snapshot').fill('good');
  await page.getByRole('button', { name: 'Take a snapshot' }).click();
  await page.getByRole('row', { name: /good/ }).waitFor();
  await session.accessible('snapshots of an instance');
  await session.shot('instance-snapshots');
  inside('keeper', 'sh', '-c', 'echo broken > /state; echo later > /data/x');
  await page.getByRole('button', { name: 'Go back good' }).click();
  await session.confirm('Go back');
  await until('it is as it was', () => {
    try {
      return inside('keeper', 'cat', '/state') === 'good';
    } catch {
      return false;
    }
  });
  assert.equal(inside('keeper', 'cat', '/data/x'), 'later', 'volumes stay as they are');
  await page.getByText('what is now came after it').waitFor();
  await page.getByRole('button', { name: 'New from it good' }).click();
  await page.getByLabel('Name', { exact: true }).fill('second');
  await page.getByLabel('Command').fill('sleep 1000');
  await page.getByRole('button', { name: 'Review' }).last().click();
  await page.getByRole('button', { name: 'Create', exact: true }).click();
  await heading('second');
  await until('it runs', () => session.stateOf('second') === 'running');
  assert.equal(inside('second', 'cat', '/state'), 'good');
  // A snapshot holds what somebody wrote: members of projects, who see all images, do not see it.
  await session.call('POST', '/users', { name: 'mia', role: 'member', password: 'correct horse battery' });
  await session.call('POST', '/projects', { name: 'lab', members: { mia: 'operator' } });
  const other = await session.newPage();
  await other.goto(engine.url);
  await other.getByLabel('Name').fill('mia');
  await other.getByLabel('Password').fill('correct horse battery');
  await other.getByRole('button', { name: 'Sign in' }).click();
  await other.getByRole('heading', { name: 'Overview' }).waitFor();
  const names = (await session.get('/images', other)).flatMap((one) => one.names);
  assert.ok(names.includes('tiny:latest') && !names.some((name) => name.startsWith('snapshot/')), names.join());
  assert.equal((await other.request.get(session.api(`/images/${encodeURIComponent('snapshot/keeper:good')}`))).status(), 404);
  const made = await session.call('POST', '/instances', { project: 'lab', image: 'snapshot/keeper:good', command: ['cat', '/state'] }, other);
  assert.equal(made.status(), 404, await made.text());
  await other.context().close();
});

test('a clone has everything, and several come at once', async () => {
  inside('keeper', 'sh', '-c', 'echo mine > /own');
  await go(`/instances/${session.idOf('keeper')}/snapshots`);
  await page.getByLabel('Name of the clone').fill('herd');
  await page.getByLabel('How many').fill('3');
  await page.getByRole('button', { name: 'Clone and start' }).click();
  await heading('Instances');
  for (const n of [1, 2, 3]) await page.getByRole('link', { name: `herd-${n}`, exact: true }).waitFor();
  assert.equal(session.stateOf('herd-3'), 'running');
  assert.match(inside('herd-3', 'cat', '/own'), /^mine/);
});

test('a volume is backed up, put back, restored into another, and its backups outlive it', async () => {
  engine.berth('run', '-d', '--name', 'db', '-v', 'dbdata:/data', 'tiny', 'sleep', '1000');
  inside('db', 'sh', '-c', 'echo one > /data/row; mkdir /data/sub; ln -s row /data/link; chown 7:8 /data /data/sub; chmod 700 /data/sub');
  await go('/volumes');
  await page.getByRole('button', { name: 'Backups dbdata' }).click();
  await page.getByText('No backup yet').waitFor();
  await page.getByRole('button', { name: 'Back it up now' }).click();
  await page.getByRole('button', { name: 'Put it back' }).waitFor();
  await session.accessible('backups');
  await session.shot('volumes');
  assert.equal(session.stateOf('db'), 'running', 'held only while it was copied');
  inside('db', 'sh', '-c', 'echo two > /data/row; rm /data/link; touch /data/new');
  // Not under somebody's feet.
  await page.getByRole('button', { name: 'Put it back' }).click();
  await session.confirm('Put it back');
  await page.getByText('in use by running instances').waitFor();
  engine.berth('stop', '-t', '0', 'db');
  await page.getByRole('button', { name: 'Put it back' }).click();
  await session.confirm('Put it back');
  await until('it is put back', async () => (await session.get('/tasks')).some((task) => task.act === 'volume.restore' && task.state === 'done'));
  engine.berth('start', 'db');
  assert.equal(inside('db', 'sh', '-c', 'cat /data/link; ls /data; stat -c "%u:%g %a" /data /data/sub'), 'one\nlink\nrow\nsub\n7:8 755\n7:8 700');
  await page.getByRole('button', { name: 'Into another' }).click();
  await page.getByLabel('Into the volume').fill('dbcopy');
  await page.getByRole('button', { name: 'Restore', exact: true }).click();
  await page.getByRole('cell', { name: 'dbcopy', exact: true }).waitFor();
  await until('it is restored', async () => (await session.get('/tasks')).filter((task) => task.act === 'volume.restore' && task.state === 'done').length === 2);
  assert.equal(engine.berth('run', '--rm', '-v', 'dbcopy:/d', 'tiny', 'cat', '/d/row'), 'one');
  // By a schedule, which says when the next one is.
  await page.getByRole('button', { name: 'Back it up by a schedule' }).click();
  await page.getByLabel('How often').selectOption({ label: 'every 6 hours' });
  await page.getByLabel('Keep', { exact: true }).fill('3');
  await page.getByRole('button', { name: 'Apply', exact: true }).click();
  await page.getByText(/every 6 hours, 3 are kept · next/).waitFor();
  const [plan] = await session.get('/schedules');
  assert.deepEqual([plan.volume, plan.every_hours, plan.keep], ['dbdata', 6, 3]);
  assert.ok(plan.next_unix_millis > Date.now() && plan.next_unix_millis <= Date.now() + 24 * 3_600_000);
  await session.accessible('a schedule');
  await page.getByRole('button', { name: 'End it' }).click();
  await session.confirm('End it');
  await page.getByRole('button', { name: 'Back it up by a schedule' }).waitFor();
  // Downloaded and uploaded it is the same.
  const [kept] = await session.get('/backups');
  const bytes = await (await page.request.get(session.api(`/volumes/dbdata/backups/${kept.id}/content`))).body();
  assert.equal(bytes.length, kept.bytes);
  await page.locator('input[type=file]').setInputFiles({ name: 'dbdata.tar.zst', mimeType: 'application/zstd', buffer: bytes });
  await page.getByText('dbdata.tar.zst is kept as a backup').waitFor();
  // What is no archive is refused when it is restored, and leaves the volume alone.
  assert.equal((await page.request.fetch(session.api('/volumes/dbcopy/backups'), { method: 'PUT', data: Buffer.alloc(4096, 7), headers: { 'x-berth-csrf': await session.csrfOf(page) } })).status(), 200);
  const odd = (await session.get('/backups')).find((one) => one.volume === 'dbcopy');
  const task = await (await session.call('POST', `/volumes/dbcopy/backups/${odd.id}/restore`, {})).json();
  assert.equal((await until('it ends', async () => {
    const now = await session.get(`/tasks/${task.id}`);
    return now.state === 'running' ? null : now;
  })).state, 'failed');
  assert.equal(engine.berth('run', '--rm', '-v', 'dbcopy:/d', 'tiny', 'cat', '/d/row'), 'one');
  engine.berth('rm', '-f', 'db');
  engine.berth('volume', 'rm', 'dbdata');
  await page.getByText('Backups of volumes that are gone').waitFor();
});

test('the map says who reaches whom', async () => {
  engine.berth('network', 'create', 'front');
  engine.berth('network', 'create', '--internal', 'vault');
  engine.berth('run', '-d', '--name', 'shopweb', '--network', 'front', '-p', '127.0.0.1:0:80', 'tiny', 'sleep', '1000');
  engine.berth('run', '-d', '--name', 'shopdb', '--network', 'vault', 'tiny', 'sleep', '1000');
  engine.berth('network', 'connect', 'vault', 'shopweb');
  await go('/networks');
  await page.getByRole('region', { name: 'Map' }).locator('text', { hasText: 'shopdb' }).waitFor();
  await page.getByLabel('Who can reach').selectOption('shopdb');
  await page.getByText('nothing outside: its networks have no way out').waitFor();
  await page.getByText('on every port, by the network vault').waitFor();
  await page.getByLabel('Who can reach').selectOption('shopweb');
  await page.getByText('what is outside of this host').waitFor();
  await session.accessible('the map');
  await session.shot('networks');
});

test('settings say what changes live, and do: ports, networks, health', async () => {
  const started = engine.berth('inspect', '--format', '{{.State.StartedAt}}', 'shopweb');
  await go(`/instances/${session.idOf('shopweb')}/settings`);
  await page.getByRole('button', { name: 'Publish a port' }).click();
  await page.getByLabel('Port inside').last().fill('81');
  await page.getByLabel('Port on the host').last().fill('0');
  const section = (title) => page.locator('section').filter({ has: page.getByRole('heading', { name: title, exact: true }) });
  await section('Published ports').getByRole('button', { name: 'Apply' }).click();
  await page.getByText('Applied live').first().waitFor();
  assert.match(engine.berth('port', 'shopweb'), /81\/tcp/);
  await page.getByLabel('Ask it regularly whether it is well').check();
  await page.getByLabel('Command inside; 0 is healthy').fill('true');
  await page.getByLabel('Every (s)').fill('1');
  await section('Health').getByRole('button', { name: 'Apply' }).click();
  await until('it is well', () => engine.berth('inspect', '--format', '{{if .State.Health}}{{.State.Health.Status}}{{end}}', 'shopweb') === 'healthy');
  await page.getByRole('button', { name: 'Leave vault' }).click();
  await until('it has left', () => !engine.berth('inspect', '--format', '{{json .NetworkSettings.Networks}}', 'shopweb').includes('vault'));
  assert.equal(engine.berth('inspect', '--format', '{{.State.StartedAt}}', 'shopweb'), started, 'and goes on all the while');
  await session.accessible('settings of an instance');
});

test('nothing broke, and no script ran', () => assert.deepEqual(session.broken, []));
