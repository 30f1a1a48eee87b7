// Pictures of every page in both themes for docs/console: node tests/console/screenshots.mjs [page ...]
// It needs what the tests need. WebP is written by the browser itself.

import { mkdirSync, writeFileSync } from 'node:fs';
import { hasCompose, missing, until } from './engine.mjs';
import { counter, painter } from './guests.mjs';
import { Session } from './session.mjs';

const FOLDER = process.env.BERTH_SHOTS ?? new URL('../../docs/console', import.meta.url).pathname;
const BYTES_MAX = 100_000;
const QUALITY = 0.4;
const why = missing();
if (why) {
  console.error(`cannot take pictures: ${why}`);
  process.exit(1);
}
delete process.env.BERTH_SHOTS;
const only = process.argv.slice(2);
const session = await Session.start();
const { engine, page } = session;

/** A small company: a shop with its database, what failed last night, machines, what was built and kept. */
async function furnish() {
  const run = (...words) => engine.berth('run', '-d', ...words);
  engine.berth('network', 'create', '--internal', 'vault');
  const busy = 'while true; do i=0; while [ $i -lt 4000 ]; do i=$((i+1)); done; sleep 0.4; done';
  const lines = 'i=0; while true; do i=$((i+1)); echo "10.0.0.$((i%7+2)) GET /item/$((i%90)) 200 $((i%40+3)) ms"; [ $((i%9)) = 0 ] && echo "slow query: 412 ms" >&2; sleep 0.3; done';
  run('--name', 'db', '--network', 'vault', '-v', 'shop-data:/var/lib/data', '-m', '256m', '--cpus', '0.5', '-l', 'team=shop', '-l', 'berth.project=shop', '-l', 'stage=live', '--restart', 'unless-stopped', '--health-cmd', 'test -e /var/lib/data/big', '--health-interval', '2s', 'tiny', 'sh', '-c', `head -c 31457280 /dev/urandom > /var/lib/data/big; ${busy}`);
  run('--name', 'web', '--network', 'shop', '-p', '127.0.0.1:0:80', '-m', '128m', '--cpus', '1', '-l', 'team=shop', '-l', 'berth.project=shop', '-l', 'stage=live', '--restart', 'unless-stopped', 'tiny', 'sh', '-c', `${lines}`);
  engine.berth('network', 'connect', 'vault', 'web');
  run('--name', 'gateway', '--network', 'shop', '-p', '0:443', '-m', '64m', '-l', 'team=edge', '--restart', 'always', 'tiny', 'sh', '-c', busy);
  run('--name', 'worker-1', '--network', 'shop', '-m', '96m', '-l', 'team=shop', '-l', 'berth.project=shop', 'tiny', 'sh', '-c', busy);
  run('--name', 'worker-2', '--network', 'shop', '-m', '96m', '-l', 'team=shop', '-l', 'berth.project=shop', 'tiny', 'sh', '-c', busy);
  run('--name', 'report', '-l', 'team=finance', 'tiny', 'sh', '-c', 'echo "cannot open /etc/report.conf" >&2; exit 3');
  run('--name', 'import', '-m', '16m', '-l', 'team=finance', 'tiny', 'sh', '-c', 'exec no-such-program').toString();
}

async function machines() {
  const { root } = engine;
  engine.berth('vm', 'create', '--disk', painter(root), '-m', '96m', '--display', 'vnc', '--label', 'team=it', '--start', 'desktop');
  engine.berth('vm', 'create', '--disk', counter(root), '-m', '64m', '--label', 'team=it', '--start', 'legacy');
  engine.berth('vm', 'create', '--disk', `${counter(root)},size=2g`, '-m', '512m', '--cpus', '2', 'golden');
  engine.berth('vm', 'template', 'golden');
  await until('it has booted', () => engine.berth('vm', 'logs', 'legacy').includes('boot'));
  for (const name of ['installed', 'updated', 'before-migration']) engine.berth('vm', 'snapshot', 'legacy', name);
}

const ended = (act) => until(`${act} ends`, async () => {
  const all = (await session.get('/tasks')).filter((task) => task.act === act);
  return all.length && all.every((task) => task.state !== 'running');
});

try {
  await session.setUp();
  const done = async (...words) => {
    const answer = await session.call(...words);
    if (!answer.ok()) throw new Error(`${words.slice(0, 2).join(' ')}: ${await answer.text()}`);
    return answer;
  };
  for (const [name, role] of [['bob', 'operator'], ['carol', 'viewer'], ['mia', 'member']]) await done('POST', '/users', { name, role, password: 'correct horse battery' });
  await done('POST', '/projects', { name: 'shop', about: 'what customers see', members: { mia: 'operator' }, quota: { instances: 12, memory_bytes: 2 ** 31, disk_bytes: 2 ** 33 } });
  try {
    await furnish();
  } catch (error) {
    // One of them is meant not to start.
    if (!/no-such-program/.test(String(error.stderr ?? error))) throw error;
  }
  await machines();
  for (const word of ['first', 'ready']) {
    await done('POST', '/builds', { name: 'shop/web:42', dockerfile: `FROM tiny AS build\nRUN mkdir /out && echo compiled > /out/app\n\nFROM tiny\nCOPY --from=build /out /app\nRUN echo "${word}" && sleep 1\nCMD ["sleep", "1000"]\n` });
    await ended('image.build');
    // It is made from what its image's name meant before.
    if (word === 'first') engine.berth('run', '-d', '--name', 'catalog', '--network', 'shop', '-m', '64m', '-l', 'team=shop', '-l', 'berth.project=shop', 'shop/web:42');
  }
  await done('PUT', `/instances/${session.idOf('web')}/note`, { text: 'What customers see. Ask Mia before you stop it; when it is slow, look at db first.' });
  await done('POST', `/instances/${session.idOf('web')}/snapshots`, { name: 'before-sale' });
  await done('PUT', `/instances/${session.idOf('web')}/schedule`, { begin_unix_millis: 0, every_hours: 24, keep: 7 });
  await ended('instance.snapshot');
  await done('POST', '/volumes/shop-data/backups', { hold: true });
  await ended('volume.backup');
  await done('PUT', '/volumes/shop-data/schedule', { begin_unix_millis: 0, every_hours: 24, keep: 7, hold: true });
  if (hasCompose()) {
    const text = 'services:\n  web:\n    image: tiny\n    command: sleep 1000\n    depends_on: [app]\n    ports: ["127.0.0.1::80"]\n  app:\n    image: tiny\n    command: sleep 1000\n    depends_on: [db]\n    deploy: { replicas: 2 }\n  db:\n    image: tiny\n    command: sleep 1000\n    volumes: ["posts:/var/lib/posts"]\n    healthcheck: { test: "true", interval: 2s }\nvolumes: { posts: }\n';
    await done('PUT', '/stacks/blog', { text });
    await ended('stack.put');
  }
  const id = session.idOf('web');
  const machine = Object.fromEntries((await session.get('/machines')).map((one) => [one.name, one.id]));
  const build = (await session.get('/builds'))[0].id;
  // A minute of meters to draw.
  const since = Date.now();
  await until('there is something to draw', () => Date.now() - since > Number(process.env.BERTH_SHOTS_WAIT ?? 60_000) || null);

  const seen = (words) => () => page.locator('main').getByText(words).first().waitFor();
  const PAGES = [
    ['overview', '/', seen('Newer images')], ['instances', '/instances', seen('gateway')], ['create', '/create?image=tiny:latest', seen('Where it comes from')],
    ['instance', `/instances/${id}`, seen('Who can reach it')], ['logs', `/instances/${id}/logs`, seen('GET /item')],
    ['terminal', `/instances/${id}/terminal`, async () => {
      await page.getByText('connected').waitFor();
      await page.locator('.xterm').click();
      await page.keyboard.type('ls -l /; free -m\n');
      await page.locator('.xterm').getByText('Mem:').first().waitFor();
    }],
    ['files', `/instances/${id}/files`, seen('etc')], ['snapshots', `/instances/${id}/snapshots`, seen('Take a snapshot')], ['scale', `/instances/${id}/scale`, seen('Apply live')], ['settings', `/instances/${id}/settings`, seen('Published ports')],
    ['machine', `/machines/${machine.desktop}`, () => page.getByAltText('Its screen').waitFor()],
    ['machine-screen', `/machines/${machine.desktop}/screen`, async () => {
      await page.getByText('connected').waitFor();
      await page.locator('.view canvas').waitFor();
    }],
    ['machine-snapshots', `/machines/${machine.legacy}/snapshots`, seen('before-migration')],
    ['images', '/images', seen('shop/web:42')], ['build', `/builds/${build}`, seen('RUN mkdir')], ['templates', '/templates', seen('golden')],
    ['volumes', '/volumes', async () => {
      await page.getByRole('button', { name: 'Backups shop-data' }).click();
      await page.getByText('Put it back').first().waitFor();
    }],
    ['networks', '/networks', seen('Who can reach what')], ['stacks', '/stacks', seen(hasCompose() ? 'blog' : 'Stacks')], ...(hasCompose() ? [['stack', '/stacks/blog', seen('blog-db-1')]] : []), ['activity', '/activity', seen('Audit')], ['projects', '/projects', seen('shop')], ['access', '/people', seen('API tokens')],
    ['hosts', '/hosts', seen('this one')], ['host', '/settings', seen('What takes the space')],
  ];
  mkdirSync(FOLDER, { recursive: true });
  const canvas = await (await session.chrome.newContext()).newPage();
  const webp = async (png) => Buffer.from(await canvas.evaluate(async ({ data, quality }) => {
    const picture = await createImageBitmap(await (await fetch(`data:image/png;base64,${data}`)).blob());
    const surface = new OffscreenCanvas(picture.width, picture.height);
    surface.getContext('2d').drawImage(picture, 0, 0);
    const bytes = new Uint8Array(await (await surface.convertToBlob({ type: 'image/webp', quality })).arrayBuffer());
    let text = '';
    for (let n = 0; n < bytes.length; n += 8192) text += String.fromCharCode(...bytes.subarray(n, n + 8192));
    return btoa(text);
  }, { data: png.toString('base64'), quality: QUALITY }), 'base64');
  const take = async (file, name, path, ready) => {
    if (only.length && !only.includes(name)) return;
    await session.go('/about-to-look');
    await session.go(path);
    await ready();
    // Charts and what is measured come a moment after the page.
    await page.waitForLoadState('networkidle').catch(() => undefined);
    await page.waitForTimeout(1200);
    for (const notice of await page.getByRole('button', { name: 'Dismiss' }).all()) await notice.click({ timeout: 1000 }).catch(() => undefined);
    const bytes = await webp(await page.screenshot());
    if (bytes.length > BYTES_MAX) throw new Error(`${file} has ${bytes.length} bytes`);
    writeFileSync(`${FOLDER}/${file}.webp`, bytes);
    console.log(`${file}.webp ${bytes.length}`);
  };
  for (const theme of ['dark', 'light']) {
    if (theme === 'light') await page.getByRole('button', { name: 'Light' }).click();
    for (const [name, path, ready] of PAGES) await take(`${name}-${theme}`, name, path, ready);
  }
  await page.setViewportSize({ width: 390, height: 844 });
  for (const [name, path, ready] of PAGES) await take(`${name}-phone`, name, path, ready);
  if (session.broken.length) throw new Error(session.broken.join('\n'));
} finally {
  for (const name of engine.berth('vm', 'ls', '-q').split('\n').filter(Boolean)) engine.berth('vm', 'rm', '-f', name);
  await session.end();
}
