// An engine of the tests' own, and a browser beside it.

import { execFileSync, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';

const require = createRequire(new URL('../../web/package.json', import.meta.url));
export const PROGRAMS = process.env.BERTH_PROGRAMS ?? new URL('../../target/debug', import.meta.url).pathname;
const DEADLINE_MILLIS = 120_000;

async function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

export async function until(what, condition) {
  const end = Date.now() + DEADLINE_MILLIS;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

export class Engine {
  static async start() {
    const engine = new Engine();
    engine.root = mkdtempSync('/var/tmp/berth-console-');
    engine.port = await freePort();
    // Where docker-compose is elsewhere than Docker looks for it.
    if (process.env.BERTH_COMPOSE) {
      mkdirSync(join(engine.root, 'docker/cli-plugins'), { recursive: true });
      symlinkSync(process.env.BERTH_COMPOSE, join(engine.root, 'docker/cli-plugins/docker-compose'));
    }
    await engine.launch();
    engine.loadTiny();
    return engine;
  }

  get socket() { return `unix://${this.root}/berth.sock`; }
  get url() { return `https://127.0.0.1:${this.port}`; }
  get log() { return readFileSync(join(this.root, 'berthd.log'), 'utf8'); }

  async launch({ console = true } = {}) {
    const log = openSync(join(this.root, 'berthd.log'), 'a');
    this.child = spawn(join(PROGRAMS, 'berthd'), [
      '-H', this.socket, '--data-root', join(this.root, 'data'), '--exec-root', join(this.root, 'run'),
      ...(console ? ['--console', `127.0.0.1:${this.port}`] : []),
    ], { stdio: ['ignore', log, log], env: process.env.BERTH_COMPOSE ? { ...process.env, DOCKER_CONFIG: join(this.root, 'docker') } : process.env });
    await until('the engine answers', () => {
      if (this.child.exitCode !== null) throw new Error(`berthd ended:\n${this.log}`);
      try {
        this.berth('version');
        return true;
      } catch {
        return false;
      }
    });
  }

  async end(signal = 'SIGTERM') {
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill(signal);
    await ended;
  }

  berth(...words) {
    return execFileSync(join(PROGRAMS, 'berth'), words, {
      env: { ...process.env, BERTH_HOST: this.socket, DOCKER_HOST: this.socket, HOME: this.root }, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'],
    }).trim();
  }

  /** A token of an administrator, made over the engine's own socket, where everybody is root. */
  async token() {
    const call = (method, path, body) => execFileSync('curl', ['-s', '--fail-with-body', '--unix-socket', this.socket.slice(7), '-X', method, '-H', 'content-type: application/json', '-d', JSON.stringify(body), `http://berth/api/v1${path}`], { encoding: 'utf8' });
    return JSON.parse(call('POST', '/tokens', { name: 'other host', role: 'admin', days: 1 })).secret;
  }

  /** One static program as an image. */
  loadTiny() {
    const tree = join(this.root, 'tiny');
    for (const folder of ['bin', 'etc', 'tmp', 'root']) mkdirSync(join(tree, folder), { recursive: true });
    cpSync('/bin/busybox', join(tree, 'bin/busybox'));
    for (const name of execFileSync('/bin/busybox', ['--list'], { encoding: 'utf8' }).split('\n')) {
      if (name && name !== 'busybox') symlinkSync('busybox', join(tree, 'bin', name));
    }
    writeFileSync(join(tree, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
    execFileSync('tar', ['-C', tree, '-cf', join(this.root, 'tiny.tar'), '.']);
    this.importTiny();
  }

  importTiny() { this.berth('import', '--change', 'CMD ["/bin/sh"]', join(this.root, 'tiny.tar'), 'tiny'); }

  /** Removes everything it made, then itself. */
  async clear() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) await this.launch();
    const ids = this.berth('ps', '-aq').split('\n').filter(Boolean);
    if (ids.length) this.berth('rm', '-f', '-v', ...ids);
    await this.end();
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** Whether stacks can be tested: the compose plugin is where Docker looks for it, or where BERTH_COMPOSE says. */
export const hasCompose = () => Boolean(process.env.BERTH_COMPOSE)
  || ['/usr/local/lib', '/usr/local/libexec', '/usr/lib', '/usr/libexec'].some((folder) => existsSync(`${folder}/docker/cli-plugins/docker-compose`));

export function missing() {
  if (process.getuid() !== 0) return 'needs root';
  if (!existsSync('/usr/bin/chromium')) return 'needs chromium: apt-get install chromium';
  if (!existsSync(new URL('../../web/node_modules/playwright-core', import.meta.url))) return 'needs playwright-core: make console';
  if (!existsSync(join(PROGRAMS, 'berthd'))) return 'needs the built programs: cargo build --workspace --bins';
  return null;
}

/** Ends the program, saying so, where something is missing. */
export function skipFor(why) {
  if (!why) return;
  console.log(`skipped: ${why}`);
  process.exit(0);
}

/**
 * A browser in a network of its own, whose only way out is a SOCKS proxy in this process: Chromium drops what is under way
 * whenever an address of the host comes or goes, and those of engines do all the time.
 */
export async function browser() {
  const { chromium } = require('playwright-core');
  const folder = mkdtempSync('/var/tmp/berth-browser-');
  const path = join(folder, 'proxy.sock');
  const proxy = createServer(throughSocks);
  await new Promise((resolve) => proxy.listen(path, resolve));
  const relay = `require('net').createServer((one) => { const to = require('net').connect(${JSON.stringify(path)}); one.pipe(to).pipe(one); for (const end of [one, to]) end.on('error', () => { one.destroy(); to.destroy(); }); }).listen(1080, '127.0.0.1')`;
  const program = join(folder, 'chromium');
  // The relay ends with the browser: it is killed by the same shell.
  writeFileSync(program, `#!/bin/sh\nexec unshare --net sh -c '/bin/busybox ip link set lo up; "$NODE" -e "$RELAY" 3<&- 4<&- & relay=$!; /usr/bin/chromium "$@"; status=$?; kill $relay; exit $status' chromium "$@"\n`, { mode: 0o755 });
  const launched = await chromium.launch({
    executablePath: program,
    env: { ...process.env, NODE: process.execPath, RELAY: relay },
    // Loopback goes through the proxy too; what comes through one counts as another network's.
    args: ['--proxy-server=socks5://127.0.0.1:1080', '--proxy-bypass-list=<-loopback>', '--disable-features=LocalNetworkAccessChecks', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  launched.on('disconnected', () => {
    proxy.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return launched;
}

/** SOCKS 5, no more of it than the browser says: connect to an address or a name, by nobody. */
function throughSocks(client) {
  const ask = (bytes) => new Promise((resolve, reject) => {
    const look = () => {
      const read = client.read(bytes);
      if (read?.length === bytes) return resolve(read);
      if (read) client.unshift(read);
      client.once('readable', look);
    };
    client.once('close', () => reject(new Error('closed')));
    look();
  });
  const serve = async () => {
    const [, methods] = await ask(2);
    await ask(methods);
    client.write(Buffer.from([5, 0]));
    const [, , , kind] = await ask(4);
    const host = kind === 1 ? (await ask(4)).join('.') : kind === 3 ? (await ask((await ask(1))[0])).toString() : '::1';
    if (kind === 4) await ask(16);
    const port = (await ask(2)).readUInt16BE(0);
    const to = connect({ host, port });
    to.once('connect', () => {
      client.write(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]));
      client.pipe(to).pipe(client);
    });
    to.on('error', () => {
      // Refused, where nothing was said yet: as the kernel would.
      if (to.connecting || !to.bytesRead) client.end(Buffer.from([5, 5, 0, 1, 0, 0, 0, 0, 0, 0]));
      else client.destroy();
    });
    to.once('close', () => client.destroySoon());
    client.once('close', () => to.destroy());
  };
  client.on('error', () => client.destroy());
  serve().catch(() => client.destroy());
}


export const axeSource = () => readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
