// What all pages share: who is signed in, instances, meters, tasks, where we are, notices.
// One WebSocket brings every change; when it breaks, everything is read anew on the next connection.

import { asInstance, failureOf, get, socket, useHost, useSession } from './api';
import type { Failure, Host, HostRow, Instance, Machine, Reading, Role, Session, Task } from './api';

const ROLES = { member: 0, viewer: 1, operator: 2, admin: 3 };
export const PROJECT_LABEL = 'berth.project';
const RETRY_MILLIS_MAX = 5000;
const SIGNED_OUT = 4001;

interface Entry { needs_setup: boolean; provider: boolean; session: Session | null }

/**
 * What the page itself says, the first time. Where it knows no session it is asked for: whoever comes by another site's
 * link shows no cookie on the way here.
 */
function told(): Entry | null {
  const meta = document.querySelector<HTMLMetaElement>('meta[name=berth-entry]');
  const text = meta?.content ?? '';
  meta?.remove();
  if (!text.startsWith('{')) return null;
  const entry = JSON.parse(text) as Entry;
  return entry.session ? entry : null;
}

export interface Notice { id: number; kind: 'good' | 'bad'; text: string; hint: string | null }
export interface Change { kind: string; action: string; id: string; name: string; unix_millis: number }

class Shared {
  session = $state.raw<Session | null>(null);
  /** unknown until the engine has answered once. */
  entry = $state<'unknown' | 'setup' | 'signin' | 'in'>('unknown');
  /** People can sign in by a provider. */
  provider = $state(false);
  connected = $state(true);
  instances = $state.raw<Instance[]>([]);
  /** Virtual machines, as rows like the others. */
  machines = $state.raw<Instance[]>([]);
  loaded = $state(false);
  all = $derived([...this.instances, ...this.machines]);
  meters = $state.raw<Map<string, Reading>>(new Map());
  host = $state.raw<Host | null>(null);
  tasks = $state.raw<Task[]>([]);
  /** The newest event; pages that show images, volumes or networks read anew when it concerns them. */
  change = $state.raw<Change | null>(null);
  notices = $state.raw<Notice[]>([]);
  /** The host that is looked at, first in the address (`/@name/…`); '' is the one that serves this page. */
  at = $state('');
  hosts = $state.raw<HostRow[]>([]);
  path = $state('/');
  search = $state(location.search);
  confirm = $state.raw<Confirm | null>(null);

  #socket: WebSocket | null = null;
  #retry = 250;
  #asking = 0;
  #notice = 0;
  #late: Message[] | null = null;

  constructor() {
    window.addEventListener('popstate', () => this.#moved());
    this.#moved();
  }

  #moved(): void {
    const [, host, rest] = /^\/@([^/]+)(.*)$/.exec(location.pathname) ?? [null, '', location.pathname];
    this.path = rest || '/';
    this.search = location.search;
    const at = decodeURIComponent(host ?? '');
    if (at === this.at) return;
    this.at = at;
    useHost(at);
    // All that is shown is another host's.
    this.#close();
    [this.instances, this.machines, this.tasks, this.meters, this.host, this.loaded] = [[], [], [], new Map(), null, false];
    if (this.session) this.#connect();
  }

  /** A page's address on the host that is looked at. */
  href(path: string): string {
    return this.at ? `/@${encodeURIComponent(this.at)}${path === '/' ? '' : path}` : path;
  }

  /** Looks at another host, on the same page. */
  use(host: string, path = this.path.startsWith('/instances/') ? '/instances' : this.path): void {
    const to = host ? `/@${encodeURIComponent(host)}${path === '/' ? '' : path}` : path;
    if (to !== location.pathname) history.pushState(null, '', to);
    this.#moved();
  }

  #close(): void {
    const open = this.#socket;
    this.#socket = null;
    open?.close();
  }

  async reloadHosts(): Promise<void> {
    if (this.session && this.session.role !== 'member') this.hosts = await get<HostRow[]>('/hosts');
  }

  go(path: string): void {
    const to = this.href(path);
    if (to !== location.pathname + location.search) history.pushState(null, '', to);
    this.#moved();
    document.getElementById('main')?.scrollTo(0, 0);
  }

  /** Whether they may do it with what has these labels; without labels: with anything at all. */
  may(role: Role, labels?: Record<string, string>): boolean {
    if (!this.session) return false;
    const { role: own, projects } = this.session;
    const here = labels ? [projects[labels[PROJECT_LABEL] ?? '']] : Object.values(projects);
    return [own, ...here].some((one) => one !== undefined && ROLES[one] >= ROLES[role]);
  }

  /** Finds out who we are; called at the start and after the engine came back. */
  async enter(): Promise<void> {
    try {
      const entry = told() ?? (await get<Entry>('/entry'));
      this.provider = entry.provider;
      if (entry.session) this.signedIn(entry.session);
      else this.signedOut(entry.needs_setup);
    } catch {
      this.connected = false;
      setTimeout(() => void this.enter(), 1000);
    }
  }

  signedIn(session: Session): void {
    this.session = session;
    this.entry = 'in';
    useSession(session, () => this.signedOut(false));
    this.#connect();
    void this.reloadHosts().catch(() => undefined);
  }

  signedOut(setup: boolean): void {
    this.session = null;
    this.entry = setup ? 'setup' : 'signin';
    this.connected = true;
    useSession(null, () => undefined);
    this.#close();
    this.instances = [];
    this.loaded = false;
  }

  #connect(): void {
    if (this.#socket) return;
    const connection = socket('/events');
    this.#socket = connection;
    connection.onopen = () => {
      this.#retry = 250;
      this.connected = true;
      void this.reload();
    };
    connection.onmessage = (message: MessageEvent<string>) => this.#take(JSON.parse(message.data) as Message);
    connection.onclose = (event) => {
      if (this.#socket !== connection) return;
      this.#socket = null;
      if (event.code === SIGNED_OUT) {
        this.signedOut(false);
        return;
      }
      this.connected = false;
      setTimeout(() => {
        if (this.session) void this.#again();
      }, this.#retry);
      this.#retry = Math.min(this.#retry * 2, RETRY_MILLIS_MAX);
    };
  }

  async #again(): Promise<void> {
    try {
      const entry = await get<Entry>('/entry');
      this.provider = entry.provider;
      if (entry.session) this.signedIn(entry.session);
      else this.signedOut(entry.needs_setup);
    } catch {
      setTimeout(() => void this.#again(), this.#retry);
    }
  }

  async reloadMachines(): Promise<void> {
    this.machines = (await get<Machine[]>('/machines')).map(asInstance);
  }

  async reload(): Promise<void> {
    // What is told while the lists are on their way may be newer than they are: it is taken once more after them.
    const late: Message[] = [];
    this.#late = late;
    try {
      const [instances, tasks] = await Promise.all([get<Instance[]>('/instances'), get<Task[]>('/tasks'), this.reloadMachines()]);
      this.instances = instances;
      this.tasks = tasks;
      this.loaded = true;
    } catch {
      // A connection that ends brings us here again; where it stays, nobody else does.
      setTimeout(() => {
        if (this.connected && this.#socket) void this.reload();
      }, 1000);
    }
    if (this.#late !== late) return;
    this.#late = null;
    for (const message of late) this.#take(message);
  }

  #take(message: Message): void {
    if (message.type === 'instances' || message.type === 'task') this.#late?.push(message);
    switch (message.type) {
      case 'instances': {
        const rows = new Map(message.rows.map((row) => [row.id, row]));
        const gone = new Set(message.removed);
        const kept = this.instances.filter((row) => !gone.has(row.id)).map((row) => {
          const now = rows.get(row.id);
          rows.delete(row.id);
          return now ?? row;
        });
        this.instances = [...rows.values(), ...kept];
        break;
      }
      case 'meters':
        this.meters = new Map(message.meters.map((reading) => [reading.id, reading]));
        this.host = message.host;
        break;
      case 'task': {
        const { task } = message;
        const before = this.tasks.find((one) => one.id === task.id);
        this.tasks = [task, ...this.tasks.filter((one) => one.id !== task.id)].sort((a, b) => b.id - a.id);
        if (task.state === 'failed' && before?.state !== 'failed' && task.who === this.session?.user && task.error) {
          this.bad(task.error);
        }
        break;
      }
      case 'event':
        this.change = message;
        // What happens to a machine comes under its id, which is no container's.
        if (message.kind === 'container' && !this.instances.some((one) => one.id === message.id)) {
          clearTimeout(this.#asking);
          this.#asking = window.setTimeout(() => void this.reloadMachines().catch(() => undefined), 60);
        }
        break;
      case 'hosts':
        this.hosts = [...this.hosts.filter((one) => !one.address), ...message.hosts];
        break;
      case 'resync':
        void this.reload();
        break;
    }
  }

  good(text: string): void {
    this.#note({ id: ++this.#notice, kind: 'good', text, hint: null }, 5000);
  }

  /** Does it, and tells how it went; true when it went well. */
  async attempt(work: () => Promise<unknown>, said = ''): Promise<boolean> {
    try {
      await work();
    } catch (error) {
      this.bad(error);
      return false;
    }
    if (said) this.good(said);
    return true;
  }

  bad(error: unknown): void {
    const failure: Failure = error && typeof error === 'object' && 'causes' in error ? (error as Failure) : failureOf(error);
    const text = [failure.message, ...failure.causes].join(': ');
    this.#note({ id: ++this.#notice, kind: 'bad', text, hint: failure.hint }, 15000);
  }

  #note(notice: Notice, millis: number): void {
    this.notices = [...this.notices.slice(-3), notice];
    setTimeout(() => this.dismiss(notice.id), millis);
  }

  dismiss(id: number): void {
    this.notices = this.notices.filter((notice) => notice.id !== id);
  }

  /** Asks before something is destroyed. */
  ask(question: Omit<Confirm, 'answer'>): Promise<{ yes: boolean; option: boolean }> {
    return new Promise((resolve) => {
      this.confirm = {
        ...question,
        answer: (yes, option) => {
          this.confirm = null;
          resolve({ yes, option });
        },
      };
    });
  }
}

export interface Confirm {
  title: string;
  text: string;
  list?: string[];
  action: string;
  /** It destroys nothing. */
  harmless?: boolean;
  /** A box to tick. */
  option?: string;
  answer: (yes: boolean, option: boolean) => void;
}

type Message =
  | { type: 'instances'; rows: Instance[]; removed: string[] }
  | { type: 'meters'; meters: Reading[]; host: Host }
  | { type: 'task'; task: Task }
  | ({ type: 'event' } & Change)
  | { type: 'hosts'; hosts: HostRow[] }
  | { type: 'resync' };

export const shared = new Shared();
