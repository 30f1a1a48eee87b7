// A browser that is signed in as the administrator, and whatever must not happen in it.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { Engine, axeSource, browser } from './engine.mjs';

/** Where pictures go; none are taken without it. */
const SHOTS = process.env.BERTH_SHOTS;
/** Pages of this folder (vite's output) instead of those in the program: a change of them is tried without building it. */
const PAGES = process.env.BERTH_PAGES;
export const PASSWORD = 'correct horse battery';

export class Session {
  /** What went wrong in any page: errors, scripts that ran, what was asked of others. */
  broken = [];

  static async start() {
    const session = new Session();
    session.engine = await Engine.start();
    session.chrome = await browser();
    session.page = await session.newPage();
    return session;
  }

  async end() {
    await this.chrome?.close();
    await this.engine?.clear();
  }

  async newPage(options = {}) {
    const { broken, engine } = this;
    const context = await this.chrome.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 800 }, colorScheme: 'dark', locale: 'en-GB', ...options });
    if (PAGES) await fromFolder(context, engine.url);
    const opened = await context.newPage();
    // Long: a machine that runs other tests beside is slow, and waiting for a condition costs nothing when it is there.
    opened.setDefaultTimeout(90_000);
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

  /** Makes the administrator with the one-time token. */
  async setUp(at = this.page) {
    await at.goto(this.engine.url);
    await at.getByLabel('Set-up token').fill(/set-up token is (\S+)/.exec(this.engine.log)[1]);
    await at.getByLabel('Name').fill('ada');
    await at.getByLabel('Password').fill(PASSWORD);
    await at.getByRole('button', { name: 'Create administrator' }).click();
    await at.getByRole('heading', { name: 'Overview' }).waitFor();
  }

  async signIn(at, name, password = PASSWORD) {
    await at.goto(this.engine.url);
    await at.getByLabel('Name').fill(name);
    await at.getByLabel('Password').fill(password);
    await at.getByRole('button', { name: 'Sign in' }).click();
    await at.getByRole('heading', { name: 'Overview' }).waitFor();
  }

  async go(path, at = this.page) {
    await at.evaluate((to) => {
      history.pushState(null, '', to);
      dispatchEvent(new PopStateEvent('popstate'));
    }, path);
  }

  /** Answers the question before something is destroyed. */
  async confirm(action) {
    await this.page.getByRole('dialog').getByRole('button', { name: action }).click();
  }

  api(path) { return `${this.engine.url}/api/v1${path}`; }
  async get(path, at = this.page) { return (await at.request.get(this.api(path))).json(); }
  async csrfOf(at) { return (await this.get('/session', at)).csrf; }
  async call(method, path, data, at = this.page) {
    return at.request.fetch(this.api(path), { method, data, headers: { 'x-berth-csrf': await this.csrfOf(at) } });
  }
  idOf(name) { return this.engine.berth('inspect', '--format', '{{.Id}}', name); }
  stateOf(name) { return this.engine.berth('inspect', '--format', '{{.State.Status}}', name); }

  async shot(name, at = this.page) {
    if (!SHOTS) return;
    mkdirSync(SHOTS, { recursive: true });
    await at.screenshot({ path: `${SHOTS}/${name}.png` });
  }

  async violations(at = this.page) {
    if (!(await at.evaluate(() => 'axe' in window))) await at.evaluate(axeSource());
    return at.evaluate(async () => {
      const result = await window.axe.run(document, { resultTypes: ['violations'] });
      return result.violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => node.html).join(' | ')}`);
    });
  }

  /** In both themes, as the page is now. */
  async accessible(what) {
    const paint = (theme) => this.page.evaluate((next) => {
      const { dataset } = document.documentElement;
      const before = dataset.theme;
      dataset.theme = next;
      return before;
    }, theme);
    const found = await this.violations();
    const before = await paint('light');
    for (const one of before === 'light' ? [] : await this.violations()) found.push(`light: ${one}`);
    await paint(before);
    if (found.length) await this.shot(`failed-${what}`);
    assert.deepEqual(found, [], `axe on ${what}`);
  }
}

const KINDS = { html: 'text/html; charset=utf-8', js: 'text/javascript; charset=utf-8', css: 'text/css; charset=utf-8', svg: 'image/svg+xml' };

async function fromFolder(context, url) {
  const nonce = 'of-a-folder';
  const policy = `default-src 'none'; script-src 'self'; style-src 'self' 'nonce-${nonce}'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;
  await context.route((to) => to.href.startsWith(url) && !to.pathname.startsWith('/api/'), (route) => {
    const { pathname } = new URL(route.request().url());
    const file = `${PAGES}${pathname}`;
    if (/^\/(assets\/|favicon)/.test(pathname)) {
      return existsSync(file) ? route.fulfill({ body: readFileSync(file), contentType: KINDS[pathname.split('.').pop()] }) : route.fulfill({ status: 404 });
    }
    const body = readFileSync(`${PAGES}/index.html`, 'utf8').replaceAll('BERTH_NONCE', nonce);
    return route.fulfill({ body, headers: { 'content-type': KINDS.html, 'content-security-policy': policy } });
  });
}
