// The web console in numbers: node bench/browser.mjs [paint|action|stutter|crowd] [--instances 200] [--minutes 10] [--rounds 20]
//
//   paint   time to the first useful paint: the overview with its numbers, signed in, nothing in the browser's cache
//   action  from a click to its effect on the screen, less what the engine itself takes for the same call
//   stutter how long frames take while a list of 1,000 is scrolled, all its meters come and twenty of its rows change each second
//   crowd   processor and memory of engine and browser while so many instances change, for so long; from 500 on also its list's frames
//
// Programs: BERTH_PROGRAMS (release ones, for numbers that mean something). It needs what tests/console needs.

import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { missing, until } from '../tests/console/engine.mjs';
import { Session } from '../tests/console/session.mjs';

const why = missing();
if (why) {
  console.error(`cannot measure: ${why}`);
  process.exit(1);
}
const words = process.argv.slice(2);
const option = (name, otherwise) => (words.includes(`--${name}`) ? Number(words[words.indexOf(`--${name}`) + 1]) : otherwise);
const [INSTANCES, MINUTES, ROUNDS] = [option('instances', 200), option('minutes', 10), option('rounds', 20)];
const asked = words.filter((word) => ['paint', 'action', 'stutter', 'crowd'].includes(word));
const wanted = (name) => asked.length === 0 || asked.includes(name);
const TICKS = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));

const sorted = (all) => [...all].sort((a, b) => a - b);
const at = (all, part) => sorted(all)[Math.min(all.length - 1, Math.floor(all.length * part))];
const tell = (what, all, unit = 'ms') => console.log(`${what}: median ${at(all, 0.5).toFixed(1)} ${unit}, p95 ${at(all, 0.95).toFixed(1)} ${unit}, n ${all.length}`);

/** Processor seconds and resident bytes of a process and its children. */
function usage(pid) {
  let [seconds, bytes] = [0, 0];
  const one = (id) => {
    try {
      const stat = readFileSync(`/proc/${id}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      seconds += (Number(fields[11]) + Number(fields[12])) / TICKS;
      // What processes share is counted once among them.
      bytes += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${id}/smaps_rollup`, 'utf8'))?.[1] ?? 0) * 1024;
    } catch {
      // It ended meanwhile.
    }
  };
  const walk = (id) => {
    one(id);
    let children = [];
    try {
      children = readdirSync(`/proc/${id}/task`).flatMap((task) => readFileSync(`/proc/${id}/task/${task}/children`, 'utf8').split(' ').filter(Boolean));
    } catch {
      // As above.
    }
    for (const child of children) walk(child);
  };
  walk(pid);
  return { seconds, bytes };
}
const alone = (pid) => {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { seconds: (Number(fields[11]) + Number(fields[12])) / TICKS, bytes: Number(/^Rss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))[1]) * 1024 };
};

const session = await Session.start();
const { engine, page } = session;

/** Tells when something is on the screen: as its numbers are there, after a frame was drawn with them. */
const WATCH = `(() => {
  const look = () => {
    const value = document.querySelector('.tiles b')?.textContent?.trim();
    if (!value) return requestAnimationFrame(look);
    requestAnimationFrame(() => { window.useful = performance.now(); });
  };
  look();
})()`;

async function paint() {
  const [useful, first] = [[], []];
  const state = await page.context().storageState();
  for (let n = 0; n < ROUNDS; n += 1) {
    const fresh = await session.newPage({ storageState: state });
    await fresh.addInitScript(WATCH);
    await fresh.goto(engine.url);
    useful.push(await (await fresh.waitForFunction(() => window.useful)).jsonValue());
    first.push(await fresh.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0));
    await fresh.context().close();
  }
  tell('first useful paint (overview with numbers, empty cache)', useful);
  tell('first contentful paint', first);
}

async function action() {
  engine.berth('run', '-d', '--name', 'pressed', 'tiny', 'sleep', '100000');
  const id = session.idOf('pressed');
  const headers = { 'x-berth-csrf': await session.csrfOf(page) };
  const call = async (verb) => {
    const begun = performance.now();
    await page.evaluate(([path, csrf]) => fetch(path, { method: 'POST', headers: { 'x-berth-csrf': csrf } }), [`/api/v1/instances/${id}/${verb}`, headers['x-berth-csrf']]);
    return performance.now() - begun;
  };
  await session.go(`/instances/${id}`);
  await page.getByRole('button', { name: 'Pause' }).waitFor();
  const [own, screen] = [{ pause: [], unpause: [] }, { pause: [], unpause: [] }];
  // Click and effect on the page's own clock: the driver's way to the browser is nobody's who sits before it.
  const press = (name, word) => page.evaluate(([button, chip]) => new Promise((resolve) => {
    const found = [...document.querySelectorAll('.head button')].find((one) => one.textContent.trim() === button);
    const begun = performance.now();
    found.click();
    const look = () => (document.querySelector('.head .chip')?.textContent.trim() === chip ? requestAnimationFrame(() => resolve(performance.now() - begun)) : requestAnimationFrame(look));
    look();
  }), [name, word]);
  for (let n = 0; n < ROUNDS; n += 1) {
    screen.pause.push(await press('Pause', 'paused'));
    screen.unpause.push(await press('Resume', 'running'));
  }
  for (let n = 0; n < ROUNDS; n += 1) {
    own.pause.push(await call('pause'));
    own.unpause.push(await call('unpause'));
  }
  for (const verb of ['pause', 'unpause']) {
    tell(`${verb}: click to its effect on the screen`, screen[verb]);
    tell(`${verb}: the same call alone`, own[verb]);
    console.log(`${verb}: beyond the engine's own, median ${(at(screen[verb], 0.5) - at(own[verb], 0.5)).toFixed(1)} ms`);
  }
  engine.berth('rm', '-f', 'pressed');
}

/** How long frames of a list take, at rest and scrolled, and what of the time the page works. */
async function frames(at, what) {
  const [SECONDS, FRAME_MILLIS] = [20, 1000 / 60];
  const measure = (scrolls) => at.evaluate(([seconds, moves]) => new Promise((resolve) => {
    const box = document.querySelector('.rows');
    const gaps = [];
    let [last, down] = [performance.now(), 1];
    const end = last + seconds * 1000;
    const frame = (now) => {
      gaps.push(now - last);
      last = now;
      if (moves) {
        if (box.scrollTop + box.clientHeight >= box.scrollHeight - 1) down = -1;
        if (box.scrollTop === 0) down = 1;
        box.scrollTop += 60 * down;
      }
      if (now < end) requestAnimationFrame(frame);
      else resolve(gaps.slice(1));
    };
    requestAnimationFrame(frame);
  }), [SECONDS, scrolls]);
  const cdp = await at.context().newCDPSession(at);
  await cdp.send('Performance.enable');
  const work = async () => Object.fromEntries((await cdp.send('Performance.getMetrics')).metrics.map((one) => [one.name, one.value]));
  for (const [how, scrolls] of [['told of changes', false], ['told of changes and scrolled', true]]) {
    const before = await work();
    const gaps = await measure(scrolls);
    const after = await work();
    const share = (name) => `${((100 * (after[name] - before[name])) / SECONDS).toFixed(1)} %`;
    tell(`${what}, ${how}: a frame`, gaps);
    const late = gaps.filter((gap) => gap > 3 * FRAME_MILLIS).length;
    console.log(`  of that time: script ${share('ScriptDuration')}, styles ${share('RecalcStyleDuration')}, layout ${share('LayoutDuration')}, all tasks of the page ${share('TaskDuration')}`);
    console.log(`  longer than three frames: ${late} of ${gaps.length}, longest ${Math.max(...gaps).toFixed(0)} ms; rows in the document ${await at.locator('tbody tr').count()}`);
  }
}

/** The rows and what is told of them are made up: what the page does with them is not. */
async function stutter() {
  const COUNT = 1000;
  const row = (n) => ({
    id: String(n).padStart(64, '0'), name: `many-${n}`, image: 'tiny', image_id: null, command: 'sleep 1000', state: 'running', status: 'Up', health: null, exit_code: 0,
    out_of_memory: false, error: '', created_unix_millis: Date.now() - n * 1000, started_unix_millis: Date.now(), finished_unix_millis: 0, labels: { team: `t${n % 7}` }, ports: [], networks: [], volumes: [],
  });
  const meters = () => Array.from({ length: COUNT }, (_, n) => ({
    id: row(n).id, unix: Date.now() / 1000, cpu: Math.random(), memory_bytes: 1e8 * Math.random(), memory_limit_bytes: 1e8, received: 0, sent: 0, read: 0, written: 0, processes: 1,
  }));
  const crowded = await session.newPage({ storageState: await page.context().storageState() });
  let telling;
  await crowded.route('**/api/v1/instances', (route) => route.fulfill({ json: Array.from({ length: COUNT }, (_, n) => row(n)) }));
  await crowded.routeWebSocket('**/api/v1/events', (socket) => {
    socket.connectToServer();
    clearInterval(telling);
    telling = setInterval(() => {
      const rows = Array.from({ length: 20 }, () => row(Math.floor(Math.random() * COUNT)));
      socket.send(JSON.stringify({ type: 'instances', rows: rows.map((one) => ({ ...one, state: Math.random() < 0.5 ? 'paused' : 'running' })), removed: [] }));
      socket.send(JSON.stringify({ type: 'meters', meters: meters(), host: { unix: Date.now() / 1000, cpu: 1, cpus: 2, load: 1, memory_bytes: 1, memory_total_bytes: 2, disk_used_bytes: 1, disk_total_bytes: 2, received: 0, sent: 0, read: 0, written: 0 } }));
    }, 1000);
  });
  await crowded.goto(`${engine.url}/instances`);
  await crowded.getByRole('link', { name: 'many-0', exact: true }).waitFor();
  await frames(crowded, `a list of ${COUNT}`);
  clearInterval(telling);
  await crowded.context().close();
}

async function crowd() {
  for (let n = 0; n < INSTANCES; n += 1) {
    engine.berth('run', '-d', '--name', `many-${n}`, '-m', '64m', 'tiny', 'sh', '-c', `while true; do i=0; while [ $i -lt 60 ]; do i=$((i+1)); done; sleep ${INSTANCES >= 500 ? 10 : 2}; done`);
  }
  await session.go('/instances');
  await page.getByRole('link', { name: 'many-0', exact: true }).or(page.getByRole('link', { name: `many-${INSTANCES - 1}`, exact: true })).first().waitFor();
  await until('meters are there', async () => (await page.locator('td.number').first().textContent()).includes('%'));
  const browserPid = Number(execFileSync('pgrep', ['-P', String(process.pid), '-f', 'chrom'], { encoding: 'utf8' }).split('\n')[0]);
  const cdp = await page.context().newCDPSession(page);
  await cdp.send('Performance.enable');
  const heap = async () => (await cdp.send('Performance.getMetrics')).metrics.find((one) => one.name === 'JSHeapUsedSize').value;
  const nodes = async () => (await cdp.send('Performance.getMetrics')).metrics.find((one) => one.name === 'Nodes').value;
  const from = { at: Date.now(), engine: alone(engine.child.pid), browser: usage(browserPid), heap: await heap(), nodes: await nodes() };
  const end = from.at + MINUTES * 60_000;
  let changed = 0;
  while (Date.now() < end) {
    // A change a second, as on a busy host.
    const name = `many-${changed % INSTANCES}`;
    engine.berth('pause', name);
    engine.berth('unpause', name);
    changed += 1;
    await new Promise((resolve) => setTimeout(resolve, 900));
  }
  const seconds = (Date.now() - from.at) / 1000;
  const to = { engine: alone(engine.child.pid), browser: usage(browserPid), heap: await heap(), nodes: await nodes() };
  const share = (part) => `${((100 * (to[part].seconds - from[part].seconds)) / seconds).toFixed(2)} % of a core`;
  const mib = (count) => `${(count / 1048576).toFixed(1)} MiB`;
  console.log(`${INSTANCES} instances for ${(seconds / 60).toFixed(1)} minutes, ${changed} paused and resumed, the list open:`);
  console.log(`engine: ${share('engine')}, ${mib(from.engine.bytes)} -> ${mib(to.engine.bytes)} resident`);
  if (INSTANCES >= 500) {
    let ends = false;
    const changing = (async () => {
      for (let n = 0; !ends; n += 1) {
        engine.berth('pause', `many-${n % INSTANCES}`);
        engine.berth('unpause', `many-${n % INSTANCES}`);
        await new Promise((resolve) => setTimeout(resolve, 900));
      }
    })();
    await frames(page, `the list of ${INSTANCES} real ones`);
    ends = true;
    await changing;
  }
  console.log(`browser (all its processes): ${share('browser')}, ${mib(from.browser.bytes)} -> ${mib(to.browser.bytes)}; the page's heap ${mib(from.heap)} -> ${mib(to.heap)}, ${from.nodes} -> ${to.nodes} nodes`);
}

try {
  await session.setUp();
  if (wanted('paint')) await paint();
  if (wanted('action')) await action();
  if (wanted('stutter')) await stutter();
  if (wanted('crowd')) await crowd();
  if (session.broken.length) throw new Error(session.broken.join('\n'));
} finally {
  await session.end();
}
