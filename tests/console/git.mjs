// Git repositories on this host, served as any other host serves them.

import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';

const BACKEND = `${execFileSync('git', ['--exec-path'], { encoding: 'utf8' }).trim()}/git-http-backend`;

export class Repositories {
  /** `secret`: what a repository called private wants to be told. */
  static async start(root, secret) {
    const all = new Repositories();
    all.root = join(root, 'repositories');
    mkdirSync(all.root, { recursive: true });
    all.server = createServer((request, answer) => {
      const url = new URL(request.url, 'http://x');
      const told = Buffer.from((request.headers.authorization ?? '').replace(/^Basic /, ''), 'base64').toString();
      if (url.pathname.startsWith('/private') && told !== `git:${secret}`) {
        answer.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
        return;
      }
      const child = spawn(BACKEND, [], { env: {
        PATH: process.env.PATH, GIT_PROJECT_ROOT: all.root, GIT_HTTP_EXPORT_ALL: '1', PATH_INFO: url.pathname, QUERY_STRING: url.search.slice(1), REQUEST_METHOD: request.method,
        CONTENT_TYPE: request.headers['content-type'] ?? '', HTTP_CONTENT_ENCODING: request.headers['content-encoding'] ?? '', GIT_PROTOCOL: request.headers['git-protocol'] ?? '', REMOTE_ADDR: '127.0.0.1',
      }, stdio: ['pipe', 'pipe', 'inherit'] });
      request.pipe(child.stdin);
      const parts = [];
      child.stdout.on('data', (part) => parts.push(part));
      child.on('close', () => {
        const bytes = Buffer.concat(parts);
        const end = bytes.indexOf('\r\n\r\n');
        const headers = Object.fromEntries(bytes.subarray(0, end).toString().split('\r\n').map((line) => line.split(/: (.*)/s).slice(0, 2)));
        answer.writeHead(Number((headers.Status ?? '200').split(' ')[0]), headers).end(bytes.subarray(end + 4));
      });
    });
    await new Promise((resolve) => all.server.listen(0, '127.0.0.1', resolve));
    all.url = `http://127.0.0.1:${all.server.address().port}`;
    return all;
  }

  git(name, ...words) {
    const env = { PATH: process.env.PATH, HOME: '/nonexistent', GIT_CONFIG_NOSYSTEM: '1', GIT_AUTHOR_NAME: 'Ada', GIT_AUTHOR_EMAIL: 'ada@x', GIT_COMMITTER_NAME: 'Ada', GIT_COMMITTER_EMAIL: 'ada@x' };
    return execFileSync('git', ['-C', join(this.root, name), ...words], { env, encoding: 'utf8' }).trim();
  }

  /** Commits these files, in a new repository where there is none; the commit. */
  commit(name, subject, files) {
    mkdirSync(join(this.root, name), { recursive: true });
    this.git(name, 'init', '-q', '-b', 'main');
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(this.root, name, path)), { recursive: true });
      writeFileSync(join(this.root, name, path), text);
    }
    this.git(name, 'add', '-A');
    this.git(name, 'commit', '-q', '-m', subject);
    return this.git(name, 'rev-parse', 'HEAD');
  }

  end() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }
}
