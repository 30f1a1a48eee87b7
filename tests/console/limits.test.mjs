// What a project may use, on every way that something is made; what is kept by a schedule; what is sent. By the API alone.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { calls } from './calls.mjs';
import { Engine, missing, skipFor, until } from './engine.mjs';

skipFor(missing());

const MIB = 1 << 20;
let engine;
let ask;
let json;
let agent;
const get = async (path) => JSON.parse((await ask('GET', path)).text);
const project = async (name, quota) => assert.equal((await json('POST', '/projects', { name, quota })).status, 200);
const used = async (name) => (await get('/projects')).find((one) => one.name === name).used;
const make = (data) => json('POST', '/instances', { image: 'tiny', command: ['sleep', '100000'], ...data });
const statuses = async (all) => (await Promise.all(all)).map((one) => one.status).sort().join(' ');
const refused = (answer, what) => {
  assert.equal(answer.status, 409, answer.text);
  assert.match(JSON.parse(answer.text).message, what);
};
const ended = (task) => until(`task ${task.act} ends`, async () => {
  const now = await get(`/tasks/${task.id}`);
  return now.state === 'running' ? null : now;
});
const runs = (name) => until(`${name} goes on`, () => engine.berth('inspect', '--format', '{{.State.Status}}', name) === 'running');
const backUp = async (volume) => ended(JSON.parse((await json('POST', `/volumes/${volume}/backups`, { hold: true })).text));

before(async () => {
  engine = await Engine.start();
  ({ ask, json, agent } = calls(engine, await engine.token()));
});

after(async () => {
  agent?.destroy();
  for (const name of engine ? engine.berth('vm', 'ls', '-q').split('\n').filter(Boolean) : []) engine.berth('vm', 'rm', '-f', name);
  await engine?.clear();
});

test('of those who want the last room only one gets it, whatever is limited', async () => {
  await project('few', { instances: 1 });
  assert.equal(await statuses(Array.from({ length: 6 }, (_, n) => make({ name: `few-${n}`, project: 'few' }))), '200 409 409 409 409 409');
  await project('slow', { cpus: 1 });
  assert.equal(await statuses(Array.from({ length: 4 }, (_, n) => make({ name: `slow-${n}`, project: 'slow', cpus: 0.5 }))), '200 200 409 409');
  await project('small', { memory_bytes: 64 * MIB });
  assert.equal(await statuses(Array.from({ length: 3 }, (_, n) => make({ name: `small-${n}`, project: 'small', memory_bytes: 32 * MIB }))), '200 200 409');
});

test('processors are limited on every way: made, changed, cloned, made anew', async () => {
  assert.match(JSON.parse((await make({ project: 'slow' })).text).message, /limits processors/);
  const [one, two] = (await get('/instances')).filter((row) => row.labels['berth.project'] === 'slow').map((row) => row.id);
  refused(await json('PATCH', `/instances/${one}`, { cpus: 0.75 }), /1 of 1 processors/);
  refused(await json('POST', `/instances/${one}/clone`, { name: 'slow-9' }), /processors/);
  assert.equal((await json('PATCH', `/instances/${one}`, { cpus: 0.25 })).status, 200);
  assert.equal((await json('POST', `/instances/${one}/clone`, { name: 'slow-9' })).status, 200);
  // The limit falls below what is there: less is always possible, more is not.
  assert.equal((await json('PATCH', '/projects/slow', { quota: { cpus: 0.5 } })).status, 200);
  assert.equal((await json('PATCH', `/instances/${two}`, { cpus: 0.4 })).status, 200, 'still over it, and less than before');
  refused(await json('PATCH', `/instances/${two}`, { cpus: 0.45 }), /processors/);
  assert.equal((await ended(JSON.parse((await json('POST', `/instances/${two}/recreate`, { env: ['A=1'] })).text))).state, 'done');
  // What root makes by Docker's API is not asked, and counts.
  const before = (await used('slow')).cpus;
  engine.berth('create', '--label', 'berth.project=slow', '--cpus', '1', '--name', 'slow-root', 'tiny', 'sleep', '1000');
  assert.equal((await used('slow')).cpus, before + 1);
});

test('the disk is what containers write, volumes, their backups and snapshots together', async () => {
  await project('full', { disk_bytes: 24 * MIB });
  assert.equal((await json('POST', '/volumes', { name: 'full-data', project: 'full' })).status, 200);
  assert.equal((await make({ name: 'writer', project: 'full', start: true, mounts: [{ kind: 'volume', source: 'full-data', target: '/data' }] })).status, 200);
  engine.berth('exec', 'writer', 'dd', 'if=/dev/urandom', 'of=/data/a', 'bs=1M', 'count=8');
  const before = (await used('full')).disk_bytes;
  assert.ok(before >= 8 * MIB && before < 10 * MIB, String(before));
  // A backup counts, and so does a snapshot.
  assert.equal((await backUp('full-data')).state, 'done');
  const after = (await used('full')).disk_bytes;
  await runs('writer');
  assert.ok(after - before >= 8 * MIB, `${before} -> ${after}`);
  engine.berth('exec', 'writer', 'dd', 'if=/dev/urandom', 'of=/root/b', 'bs=1M', 'count=3');
  assert.equal((await json('POST', '/instances/writer/snapshots', { name: 'one' })).status, 200);
  const kept = (await used('full')).disk_bytes;
  assert.ok(kept - after >= 6 * MIB, `${after} -> ${kept}`);
  // Two megabytes are left: the next backup ends there, and leaves nothing.
  const task = await backUp('full-data');
  assert.equal(task.state, 'failed', JSON.stringify(task));
  await runs('writer');
  assert.match(task.error.message, /larger than the \d+ MiB that there is room for/);
  assert.equal(readdirSync(join(engine.root, 'data/backups/full-data')).length, 2, 'one archive and its record');
  engine.berth('exec', 'writer', 'dd', 'if=/dev/zero', 'of=/root/c', 'bs=1M', 'count=4');
  for (const answer of [
    await make({ project: 'full' }), await json('POST', '/volumes', { project: 'full' }), await json('POST', '/instances/writer/clone', {}),
    await json('POST', '/instances/writer/snapshots', { name: 'two' }), await json('POST', '/volumes/full-data/backups', {}),
    await json('POST', '/uploads', { name: 'a.img', size_bytes: 512, project: 'full' }),
    await json('POST', `/volumes/full-data/backups/${(await get('/backups'))[0].id}/restore`, { into: 'elsewhere' }),
  ]) {
    // A volume that nobody has yet takes the labels of its backup.
    refused(answer, /project full has no room: \d+ of 24 MiB of disk are taken/);
  }
  // What takes nothing more still works, and room comes back.
  assert.equal((await json('PATCH', '/instances/writer', { memory_bytes: 64 * MIB })).status, 200);
  assert.equal((await ask('DELETE', `/volumes/full-data/backups/${(await get('/backups'))[0].id}`)).status, 200);
  assert.equal((await json('POST', '/volumes', { project: 'full', name: 'more' })).status, 200);
});

test('machines count whole, and what clones, forks and grows them is asked', { skip: existsSync('/usr/bin/qemu-system-x86_64') ? false : 'needs qemu-system-x86' }, async () => {
  await project('metal', { instances: 3, cpus: 3, memory_bytes: 192 * MIB, disk_bytes: 64 * MIB });
  const user = await json('POST', '/users', { name: 'mia', role: 'member', password: 'correct horse battery' });
  assert.equal(user.status, 200, user.text);
  assert.equal((await json('PATCH', '/projects/metal', { members: { mia: 'operator' } })).status, 200);
  // Whoever is a member makes machines there, of what they have sent, and names no file of the host.
  const cookie = (await json('POST', '/session', { name: 'mia', password: 'correct horse battery' }, { token: null }));
  const headers = { cookie: cookie.headers['set-cookie'][0].split(';')[0], 'x-berth-csrf': JSON.parse(cookie.text).csrf };
  const mia = (method, path, value) => json(method, path, value, { token: null, headers });
  const disk = (mib) => ({ size_bytes: mib * MIB });
  const machine = (name, mib, more = {}) => mia('POST', '/machines', { name, memory_bytes: 64 * MIB, disks: [disk(mib)], ...more });
  for (const more of [{ disks: [{ source: '/etc/shadow' }] }, { cdroms: ['/etc/shadow'] }, { kernel: { image: '/boot/vmlinuz' } }]) {
    assert.equal((await machine('thief', 1, more)).status, 403, JSON.stringify(more));
  }
  assert.equal((await machine('lan', 1, { network: 'bridge' })).status, 403, 'the default network, where others are');
  assert.equal(await statuses([machine('m1', 40), machine('m2', 40)]), '200 409');
  const [found] = await get('/machines');
  assert.equal((await mia('POST', `/machines/${found.id}/start`, {})).status, 200);
  assert.deepEqual(Object.keys((await get(`/machines/${found.id}`)).networks), ['metal'], "on the project's network");
  assert.equal((await mia('POST', `/machines/${found.id}/kill`, {})).status, 200);
  await until('it is off', async () => (await get(`/machines/${found.id}`)).state === 'exited');
  assert.equal(found.labels['berth.project'], 'metal');
  refused(await mia('POST', `/machines/${found.id}/clone`, { name: 'twin' }), /80 MiB|MiB of disk/);
  refused(await mia('PATCH', `/machines/${found.id}`, { cpus: 4 }), /processors/);
  refused(await mia('PATCH', `/machines/${found.id}`, { memory_bytes: 256 * MIB }), /memory/);
  refused(await mia('PATCH', `/machines/${found.id}`, { disks: { disk0: 65 * MIB } }), /disk/);
  refused(await mia('POST', `/machines/${found.id}/fork`, { names: ['', ''] }), /disk/);
  refused(await mia('POST', `/machines/${found.id}/snapshots`, { name: 'all', memory: true }), /disk/);
  assert.equal((await mia('PATCH', `/machines/${found.id}`, { disks: { disk0: 48 * MIB } })).status, 200);
  assert.equal((await used('metal')).disk_bytes, 48 * MIB);
  // A foreign image says only once it is read how large it is.
  assert.equal((await json('PATCH', '/projects/metal', { quota: { disk_bytes: 50 * MIB } })).status, 200);
  const sent = JSON.parse((await mia('POST', '/uploads', { name: 'large.img', size_bytes: MIB })).text);
  assert.equal((await ask('PUT', `/uploads/${sent.id}?offset=0`, { body: Buffer.alloc(MIB), token: null, headers })).status, 200);
  assert.equal((await json('PATCH', '/projects/metal', { quota: { disk_bytes: 49 * MIB + 512 * 1024 } })).status, 200);
  refused(await mia('POST', '/machines', { name: 'm3', memory_bytes: 64 * MIB, disks: [{ source: `upload:${sent.id}` }] }), /disk/);
  assert.equal((await get('/machines')).length, 1, 'and it is gone again');
});

test('backups of one volume that are asked for at once all come to be', async () => {
  engine.berth('run', '-d', '--name', 'busy', '-v', 'shared:/data', 'tiny', 'sh', '-c', 'while true; do date > /data/now; done');
  engine.berth('exec', 'busy', 'dd', 'if=/dev/urandom', 'of=/data/a', 'bs=1M', 'count=4');
  const tasks = await Promise.all(Array.from({ length: 4 }, () => backUp('shared')));
  assert.deepEqual(tasks.map((task) => task.state), ['done', 'done', 'done', 'done'], JSON.stringify(tasks));
  assert.equal(new Set((await get('/backups')).filter((one) => one.volume === 'shared').map((one) => one.id)).size, 4);
  await runs('busy');
  assert.ok(!readdirSync(join(engine.root, 'data/backups/shared')).some((name) => name.startsWith('.new-')));
});

test('a volume is backed up by its schedule; what was missed is made once; old ones go, others stay', async () => {
  engine.berth('volume', 'create', 'nightly');
  assert.equal((await backUp('nightly')).state, 'done');
  for (const bad of [{ every_hours: 0, keep: 1 }, { every_hours: 1, keep: 0 }, { every_hours: 9000, keep: 1 }, { every_hours: 1, keep: 1001 }]) {
    assert.equal((await json('PUT', '/volumes/nightly/schedule', bad)).status, 400, JSON.stringify(bad));
  }
  assert.equal((await json('PUT', '/volumes/nowhere/schedule', { every_hours: 1, keep: 1 })).status, 404);
  const own = async () => (await get('/backups')).filter((one) => one.volume === 'nightly' && one.scheduled);
  const row = async () => (await get('/schedules')).find((one) => one.volume === 'nightly');
  const due = async (millis) => json('PUT', '/volumes/nightly/schedule', { begin_unix_millis: millis && Date.now() + millis, every_hours: 1, keep: 2, hold: true });
  assert.equal((await due(0)).status, 200);
  await until('the first one', async () => (await own()).length === 1);
  await until('its next time is known', async () => (await row()).next_unix_millis > Date.now() + 3_000_000);
  assert.equal((await row()).last_error, '');
  // Its time comes while the engine is down.
  assert.equal((await due(1500)).status, 200);
  const missed = (await row()).next_unix_millis;
  await engine.end('SIGKILL');
  assert.ok(Date.now() < missed, 'it was down in time');
  await until('its time is over', () => Date.now() > missed);
  await engine.launch();
  await until('the missed one', async () => (await own()).length === 2);
  const { next_unix_millis: next } = await until('its end is written down', async () => {
    const now = await row();
    return now.last_unix_millis > missed && !now.runs ? now : null;
  });
  assert.equal(next, missed + 3_600_000, 'once, and then at its own times');
  const [, oldest] = await own();
  assert.equal((await due(0)).status, 200);
  await until('two are kept', async () => {
    const now = await own();
    return now.length === 2 && !now.some((one) => one.id === oldest.id);
  });
  assert.equal((await get('/backups')).filter((one) => one.volume === 'nightly').length, 3, 'and what was made by hand stays');
  assert.equal((await ask('DELETE', '/volumes/nightly/schedule')).status, 200);
  assert.equal((await ask('DELETE', '/volumes/nightly/schedule')).status, 404);
  // A volume that goes takes its schedule along, whoever removes it.
  engine.berth('volume', 'create', 'gone');
  assert.equal((await json('PUT', '/volumes/gone/schedule', { begin_unix_millis: Date.now() + 60_000, every_hours: 1, keep: 1 })).status, 200);
  engine.berth('volume', 'rm', 'gone');
  await until('its schedule is gone', async () => !(await get('/schedules')).some((one) => one.volume === 'gone'));
});

test('a schedule runs in an engine that serves no console too', async () => {
  engine.berth('volume', 'create', 'unseen');
  const row = async () => (await get('/schedules')).find((one) => one.volume === 'unseen');
  assert.equal((await json('PUT', '/volumes/unseen/schedule', { begin_unix_millis: Date.now() + 1500, every_hours: 1, keep: 2 })).status, 200);
  const { next_unix_millis: due } = await row();
  await engine.end();
  await engine.launch({ console: false });
  const folder = join(engine.root, 'data/backups/unseen');
  await until('it is backed up', () => existsSync(folder) && readdirSync(folder).some((name) => name.endsWith('.json')));
  await engine.end();
  await engine.launch();
  const { last_error: why } = await until('its end is written down', async () => {
    const now = await row();
    return now.last_unix_millis >= due && !now.runs ? now : null;
  });
  assert.equal(why, '');
  assert.equal((await get('/backups')).filter((one) => one.volume === 'unseen' && one.scheduled).length, 1, 'once, by whichever engine');
});

test('a kernel for machines is installed as a task, which can be cancelled and says why it fails', async () => {
  // Nobody writes into it: whoever reads the package waits for ever.
  const endless = join(engine.root, 'endless.deb');
  execFileSync('mkfifo', [endless]);
  const install = async (path) => JSON.parse((await json('POST', '/machine-kernels', { package: path })).text);
  const begun = await install(endless);
  assert.equal(begun.state, 'running');
  const reads = () => execFileSync('sh', ['-c', 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\0" " " || true'], { encoding: 'utf8' }).includes(`dpkg-deb -x ${endless}`);
  await until('it is unpacked', reads);
  assert.deepEqual((await get(`/tasks/${begun.id}`)).lines, ['unpacking endless.deb']);
  assert.equal((await ask('DELETE', `/tasks/${begun.id}`)).status, 200);
  assert.equal((await ended(begun)).state, 'cancelled');
  await until('nothing of it runs on', () => !reads());
  const bad = join(engine.root, 'bad.deb');
  writeFileSync(bad, 'no package');
  const failed = await ended(await install(bad));
  assert.equal(failed.state, 'failed');
  assert.match(failed.error.causes.join(), /dpkg-deb failed/);
  assert.deepEqual(await get('/machine-kernels'), []);
  // The command line waits for it, by an engine that serves no console too.
  await engine.end();
  await engine.launch({ console: false });
  assert.throws(() => engine.berth('vm', 'kernel', 'install', bad), /unpacking bad\.deb[^]*dpkg-deb failed/);
  await engine.end();
  await engine.launch();
});

test('whoever asks for another disk limit is told why there is none', async () => {
  engine.berth('create', '--name', 'diskless', 'tiny');
  const answer = await json('PATCH', '/instances/diskless', { disk_bytes: 1 << 30 });
  assert.equal(answer.status, 400);
  assert.match(JSON.parse(answer.text).message, /what a container writes has no limit of its own/);
  assert.equal((await get('/instances/diskless')).limits.disk_bytes, 0);
});

test('a disk image is sent in parts, goes on after a break and after the engine was killed, and what is none is refused', async () => {
  const begin = async (name, size_bytes) => JSON.parse((await json('POST', '/uploads', { name, size_bytes })).text);
  const part = (id, offset, body) => ask('PUT', `/uploads/${id}?offset=${offset}`, { body });
  const image = Buffer.alloc(3 * MIB, 5);
  const { id } = await begin('disk.img', image.length);
  assert.equal(JSON.parse((await part(id, 0, image.subarray(0, MIB))).text).received_bytes, MIB);
  await engine.end('SIGKILL');
  await engine.launch();
  const { received_bytes: at } = await get(`/uploads/${id}`);
  assert.equal(at, MIB);
  refused(await part(id, 0, image.subarray(0, MIB)), /1048576 bytes of disk.img are here/);
  // Whoever goes on sending after the answer may find the connection closed before they have read it.
  const cut = (error) => {
    assert.match(error.code ?? '', /EPIPE|ECONNRESET/, String(error));
    return { status: 400 };
  };
  assert.equal((await part(id, at, Buffer.alloc(3 * MIB)).catch(cut)).status, 400, 'more than was promised');
  await until('that one has ended', async () => !/sending a part/.test((await part(id, 1, '')).text));
  const rest = (await get(`/uploads/${id}`)).received_bytes;
  const whole = JSON.parse((await part(id, rest, image.subarray(rest))).text);
  assert.deepEqual([whole.kind, whole.received_bytes], ['raw', image.length]);
  // Others have nothing of it.
  const token = JSON.parse((await json('POST', '/tokens', { name: 'op', role: 'operator', days: 1 })).text).secret;
  assert.equal((await ask('GET', `/uploads/${id}`, { token })).status, 200, 'the same user');
  for (const [name, body, why] of [['page.qcow2', '<html>', /no qcow2 image/], ['half.iso', 'x', /no ISO image/], ['d.img', Buffer.from([0x1f, 0x8b, 8, 0]), /compressed/], ['t.img', 'text', /no disk image/]]) {
    const sent = await begin(name, Buffer.byteLength(body));
    const answer = await part(sent.id, 0, body);
    assert.equal(answer.status, 400, answer.text);
    assert.match(JSON.parse(answer.text).message, why);
    assert.equal((await ask('GET', `/uploads/${sent.id}`)).status, 404, 'and is gone');
  }
  assert.ok((await json('POST', '/uploads', { name: 'x.img', size_bytes: 2 ** 39 })).status >= 400, 'more than the host has');
  assert.equal((await ask('DELETE', `/uploads/${id}`)).status, 200);
  assert.ok(!existsSync(join(engine.root, 'data/uploads', id)));
  const acts = (await get('/audit')).map((one) => one.act);
  for (const act of ['upload.create', 'upload.whole', 'upload.remove', 'volume.schedule', 'volume.schedule.remove']) assert.ok(acts.includes(act), act);
});
