// Calls of /api/v1. Every failure is a Failure with a reason and, where known, a way out.

export type Json = Record<string, unknown>;

export type Role = 'member' | 'viewer' | 'operator' | 'admin';

export interface Session {
  user: string;
  /** Everywhere; member: only what `projects` give. */
  role: Role;
  projects: Record<string, Role>;
  second_factor: boolean;
  csrf: string | null;
  version: string;
  hostname: string;
}

export interface Port { address: string; host_port: number; port: number; protocol: string; scope: 'host' | 'any' | 'address' }

export interface Instance {
  id: string;
  name: string;
  image: string;
  image_id: string | null;
  command: string;
  state: string;
  status: string;
  health: string | null;
  exit_code: number | null;
  out_of_memory: boolean;
  error: string;
  created_unix_millis: number;
  started_unix_millis: number;
  finished_unix_millis: number;
  labels: Record<string, string>;
  ports: Port[];
  networks: { network: string; ipv4: string | null; ipv6: string | null; mac: string }[];
  volumes: string[];
  /** It is a virtual machine; its page is another one. */
  machine?: Machine;
}

/** A second; 0: no limit. */
export interface DiskLimits { read_bytes: number; write_bytes: number; read_operations: number; write_operations: number }
export interface Bandwidth { in_bits_per_second: number; out_bits_per_second: number }

export interface Machine {
  id: string; name: string; state: string; status: string; exit_code: number; error: string; created_unix_millis: number; started_unix_millis: number;
  restart_count: number; cpus: number; memory_bytes: number; firmware: string; direct_kernel: boolean; accelerator: string; display: string; template: boolean;
  resumes?: boolean; snapshots: number; disks: { name: string; kind: string; size_bytes: number; base: string | null; limits?: DiskLimits }[];
  bandwidth?: Bandwidth;
  networks: Record<string, { ipv4: string | null; ipv6: string | null; mac: string }>; ports: string[]; labels: Record<string, string>;
}

export interface MachineSnapshot { name: string; parent: string | null; created_unix_millis: number; current: boolean; memory?: boolean }

/** A machine as a row among containers. */
export function asInstance(machine: Machine): Instance {
  const port = (text: string): Port[] => {
    const [, address, host, inside, protocol] = /^\[?(.*?)\]?:(\d+)->(\d+)\/(\w+)$/.exec(text) ?? [];
    if (!address) return [];
    const scope = address.startsWith('127.') || address === '::1' ? 'host' : ['0.0.0.0', '::'].includes(address) ? 'any' : 'address';
    return [{ address, host_port: Number(host), port: Number(inside), protocol: protocol ?? 'tcp', scope }];
  };
  return {
    id: machine.id, name: machine.name, image: '', image_id: null, command: '', state: machine.state, status: machine.status, health: null,
    exit_code: machine.state === 'exited' ? machine.exit_code : null, out_of_memory: false, error: machine.error,
    created_unix_millis: machine.created_unix_millis, started_unix_millis: machine.started_unix_millis, finished_unix_millis: 0, labels: machine.labels,
    ports: machine.ports.flatMap(port), networks: Object.entries(machine.networks).map(([network, at]) => ({ network, ...at })), volumes: [], machine,
  };
}

export interface Why { summary: string; details: string[]; hint: string | null }
export interface Texts { command: string; call: string; compose: string }

export interface Detail {
  instance: Instance;
  why: Why;
  limits: { memory_bytes: number; cpus: number; processes: number; disk_bytes: number };
  env: string[];
  entrypoint: string[];
  user: string;
  working_dir: string;
  hostname: string;
  tty: boolean;
  pid: number;
  restart: string;
  restart_count: number;
  mounts: { kind: string; source: string; target: string; writable: boolean }[];
  network_mode: string;
  health_test: string[];
  health_log: string[];
  log_driver: string;
  privileged: boolean;
  read_only: boolean;
  unconfined: string[];
  platform: string;
  isolation: string;
  texts: Texts | null;
}

export interface Reading {
  id: string; unix: number; cpu: number; memory_bytes: number; memory_limit_bytes: number;
  received: number; sent: number; read: number; written: number; processes: number;
}

export interface Host {
  unix: number; cpu: number; cpus: number; load: number; memory_bytes: number; memory_total_bytes: number;
  disk_used_bytes: number; disk_total_bytes: number; received: number; sent: number; read: number; written: number;
}

export interface HostRow {
  name: string; address: string; state: 'up' | 'away' | 'unknown'; error: string; seen_unix_millis: number;
  about: { hostname: string; version: string; instances: number; running: number; machines: number; failing: number; reading: Host | null } | null;
}

export interface Series {
  unix: number[]; cpu: number[]; memory_bytes: number[]; received: number[]; sent: number[]; read: number[]; written: number[];
}

export interface Task {
  id: number; act: string; target: string; who: string; state: 'running' | 'done' | 'failed' | 'cancelled';
  progress: number | null; lines: string[]; error: Failure | null; started_unix_millis: number; ended_unix_millis: number | null;
}

export interface Failure { kind: string; message: string; causes: string[]; hint: string | null }

export interface Wish {
  project: string; name: string; image: string; command: string[]; entrypoint?: string[] | null; env: string[]; labels: Record<string, string>;
  user: string; working_dir: string; hostname: string; tty: boolean; open_stdin: boolean;
  memory_bytes: number; cpus: number; processes: number;
  mounts: { kind: string; source: string; target: string; read_only: boolean }[];
  network: string; ports: { address: string; host_port: number; port: number; protocol: string }[];
  restart: string;
  isolation?: string;
  health: { command: string; interval_seconds: number; timeout_seconds: number; retries: number; start_period_seconds: number } | null;
  init: boolean; read_only: boolean; privileged: boolean; start: boolean;
}

export class ApiError extends Error {
  constructor(readonly status: number, readonly failure: Failure) {
    super([failure.message, ...failure.causes].join(': '));
  }
}

let csrf: string | null = null;
let lost: () => void = () => undefined;

export function useSession(session: Session | null, whenLost: () => void): void {
  csrf = session?.csrf ?? null;
  lost = whenLost;
}

const away: Failure = { kind: 'unavailable', message: 'the engine does not answer', causes: [], hint: 'containers run on; this page recovers by itself' };

/** The host that is looked at; '' is the one that serves this page. Users, projects and hosts are always its own. */
let host = '';
const OWN = /^\/(entry|setup|session|hosts|users|tokens|audit|projects)\b/;
export const useHost = (name: string): void => void (host = name);
export const address = (path: string): string => `/api/v1${host && !OWN.test(path) ? `/hosts/${encodeURIComponent(host)}/api` : ''}${path}`;

async function ask(method: string, path: string, body?: BodyInit, kind?: string): Promise<Response> {
  const headers: Record<string, string> = {};
  if (kind) headers['content-type'] = kind;
  if (method !== 'GET' && csrf) headers['x-berth-csrf'] = csrf;
  try {
    return await fetch(address(path), { method, headers, body, credentials: 'same-origin' });
  } catch {
    throw new ApiError(0, away);
  }
}

async function answer<T>(response: Response, path: string): Promise<T> {
  const text = await response.text();
  let value: unknown;
  try {
    value = text ? JSON.parse(text) : {};
  } catch {
    value = { kind: 'internal', message: text.slice(0, 500), causes: [], hint: null };
  }
  if (response.ok) return value as T;
  if (response.status === 401 && path !== '/session' && path !== '/setup') lost();
  throw new ApiError(response.status, value as Failure);
}

export async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  const sent = body === undefined ? undefined : JSON.stringify(body);
  return answer<T>(await ask(method, path, sent, sent && 'application/json'), path);
}

/** A file's bytes, streamed by the browser. */
export const put = async <T>(path: string, body: Blob, kind = 'application/octet-stream'): Promise<T> => answer<T>(await ask('PUT', path, body, kind), path);

/** A part of a file, to where `address` says; `signal` ends it. */
export async function putPart<T>(to: string, body: Blob, signal: AbortSignal): Promise<T> {
  const headers: Record<string, string> = { 'content-type': 'application/octet-stream', ...(csrf ? { 'x-berth-csrf': csrf } : {}) };
  let response: Response;
  try {
    response = await fetch(to, { method: 'PUT', headers, body, signal, credentials: 'same-origin' });
  } catch {
    throw new ApiError(0, away);
  }
  return answer<T>(response, to);
}

export async function text(path: string): Promise<string> {
  const response = await ask('GET', path);
  return response.ok ? response.text() : answer<string>(response, path);
}

export const get = <T>(path: string): Promise<T> => call<T>('GET', path);
export const post = <T>(path: string, body: unknown = {}): Promise<T> => call<T>('POST', path, body);
export const patch = <T>(path: string, body: unknown): Promise<T> => call<T>('PATCH', path, body);
export const remove = <T>(path: string): Promise<T> => call<T>('DELETE', path);

export function socket(path: string): WebSocket {
  return new WebSocket(`wss://${location.host}${address(path)}`);
}

export function failureOf(error: unknown): Failure {
  if (error instanceof ApiError) return error.failure;
  return { kind: 'internal', message: error instanceof Error ? error.message : String(error), causes: [], hint: null };
}
