// A registry on this host, which says what it was asked: one layer, and as many images of it as a test wants.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

const digestOf = (bytes) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';

export class Registry {
  /** `METHOD path` of all that was asked. */
  asked = [];
  #blobs = new Map();
  #tags = new Map();
  #server;

  /** `layer`: a tar archive. */
  static async start(layer) {
    const registry = new Registry();
    registry.layer = readFileSync(layer);
    registry.#server = createServer((request, answer) => registry.#answer(request, answer));
    await new Promise((resolve) => registry.#server.listen(0, '127.0.0.1', resolve));
    registry.port = registry.#server.address().port;
    return registry;
  }

  get host() { return `127.0.0.1:${this.port}`; }

  /** What `repository:tag` means from now on. */
  put(name, config) {
    const layer = this.#keep(this.layer);
    const about = Buffer.from(JSON.stringify({ architecture: process.arch === 'x64' ? 'amd64' : process.arch, os: 'linux', config, rootfs: { type: 'layers', diff_ids: [layer.digest] }, history: [{ created_by: 'a test' }] }));
    const manifest = Buffer.from(JSON.stringify({
      schemaVersion: 2, mediaType: MANIFEST, config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...this.#keep(about) },
      layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', ...layer }],
    }));
    const { digest } = this.#keep(manifest);
    this.#tags.set(name, digest);
    return digest;
  }

  #keep(bytes) {
    const digest = digestOf(bytes);
    this.#blobs.set(digest, bytes);
    return { digest, size: bytes.length };
  }

  #answer(request, answer) {
    this.asked.push(`${request.method} ${request.url}`);
    const [, repository, kind, what] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(request.url) ?? [];
    const digest = kind === 'manifests' ? (this.#tags.get(`${repository}:${what}`) ?? what) : what;
    const bytes = this.#blobs.get(digest);
    if (request.url === '/v2/') return void answer.writeHead(200).end();
    if (!bytes) return void answer.writeHead(404, { 'content-type': 'application/json' }).end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}');
    answer.writeHead(200, { 'content-type': kind === 'manifests' ? MANIFEST : 'application/octet-stream', 'content-length': bytes.length, 'docker-content-digest': digest });
    answer.end(request.method === 'HEAD' ? undefined : bytes);
  }

  end() {
    this.#server.closeAllConnections();
    return new Promise((resolve) => this.#server.close(resolve));
  }
}
