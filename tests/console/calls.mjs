// Calls of the API without a browser.

import { Agent, request } from 'node:https';

/** `ask(method, path, {body, headers, token})` and `json(method, path, value, more)`; `token`: a bearer token, null: none. */
export function calls(engine, secret) {
  const agent = new Agent({ keepAlive: true, maxSockets: 8, rejectUnauthorized: false });
  const ask = (method, path, { body, headers = {}, token = secret } = {}) => new Promise((resolve, reject) => {
    const all = { ...(token ? { authorization: `Bearer ${token}` } : {}), ...headers };
    if (body !== undefined) all['content-length'] = Buffer.byteLength(body);
    const sent = request(`${engine.url}/api/v1${path}`, { method, agent, headers: all, timeout: 60_000 }, (answer) => {
      const parts = [];
      answer.on('data', (part) => parts.push(part));
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text: Buffer.concat(parts).toString() }));
      answer.on('error', reject);
    });
    sent.on('timeout', () => sent.destroy(new Error(`no answer: ${method} ${path}`)));
    sent.on('error', reject);
    sent.end(body);
  });
  const json = (method, path, value, more = {}) => ask(method, path, { ...more, body: JSON.stringify(value), headers: { 'content-type': 'application/json', ...more.headers } });
  return { ask, json, agent };
}
