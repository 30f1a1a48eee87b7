// Calls of /api/v1. Every failure is a Failure with a reason and, where known, a way out.

export type Json = Record<string, unknown>;

export interface Session {
  user: string;
  role: 'viewer' | 'operator' | 'admin';
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
}

export interface Why { summary: string; details: string[]; hint: string | null }
export interface Texts { command: string; call: string; compose: string }

export interface Detail {
  instance: Instance;
  why: Why;
  limits: { memory_bytes: number; cpus: number; processes: number };
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
  texts: Texts | null;
}

export interface Reading {
  id: string; unix: number; cpu: number; memory_bytes: number; memory_limit_bytes: number;
  received: number; sent: number; read: number; written: number; processes: number;
}

export interface Host {
  unix: number; cpu: number; cpus: number; load: number; memory_bytes: number; memory_total_bytes: number;
  disk_used_bytes: number; disk_total_bytes: number; received: number; sent: number;
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
  name: string; image: string; command: string[]; entrypoint?: string[] | null; env: string[]; labels: Record<string, string>;
  user: string; working_dir: string; hostname: string; tty: boolean; open_stdin: boolean;
  memory_bytes: number; cpus: number; processes: number;
  mounts: { kind: string; source: string; target: string; read_only: boolean }[];
  network: string; ports: { address: string; host_port: number; port: number; protocol: string }[];
  restart: string;
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

export async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers['content-type'] = 'application/json';
  if (method !== 'GET' && csrf) headers['x-berth-csrf'] = csrf;
  let response: Response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: 'same-origin',
    });
  } catch {
    throw new ApiError(0, away);
  }
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

export const get = <T>(path: string): Promise<T> => call<T>('GET', path);
export const post = <T>(path: string, body: unknown = {}): Promise<T> => call<T>('POST', path, body);
export const patch = <T>(path: string, body: unknown): Promise<T> => call<T>('PATCH', path, body);
export const remove = <T>(path: string): Promise<T> => call<T>('DELETE', path);

export function socket(path: string): WebSocket {
  return new WebSocket(`wss://${location.host}/api/v1${path}`);
}

export function failureOf(error: unknown): Failure {
  if (error instanceof ApiError) return error.failure;
  return { kind: 'internal', message: error instanceof Error ? error.message : String(error), causes: [], hint: null };
}
