// What is filled in in the wizard, and the calls that it becomes: one draft for containers and machines.

import type { Texts, Wish } from './api';
import { post } from './api';
import { words } from './format';

export type Source = 'image' | 'dockerfile' | 'snapshot' | 'template' | 'disk' | 'iso' | 'empty' | 'compose';

export const MIB = 1048576;
const GIB = 1024 * MIB;
/** Sources of machines with disks of their own; the others are images, in a container or in a machine of their own. */
const MACHINES: readonly Source[] = ['template', 'disk', 'iso', 'empty'];

const lines = (text: string): string[] => text.split('\n').map((one) => one.trim()).filter(Boolean);
export const pairs = (text: string): Record<string, string> => Object.fromEntries(lines(text).map((one) => [one.split('=')[0] ?? '', one.split('=').slice(1).join('=')]));
const quoted = (text: string): string => (/^[\w./:=@%+,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

export class Draft {
  source = $state<Source>('image');
  /** In a machine of its own: a kernel that it shares with nobody. */
  apart = $state(false);
  project = $state('');
  name = $state('');
  image = $state('');
  command = $state('');
  env = $state('');
  labels = $state('');
  user = $state('');
  tty = $state(false);
  cpus = $state(1);
  mib = $state(1024);
  processes = $state(0);
  mounts = $state<Wish['mounts']>([]);
  readOnly = $state(false);
  network = $state('bridge');
  ports = $state<Wish['ports']>([]);
  restart = $state('unless-stopped');
  probe = $state(false);
  health = $state({ command: '', interval_seconds: 30, timeout_seconds: 5, retries: 3, start_period_seconds: 0 });
  init = $state(true);
  start = $state(true);
  // Of machines.
  base = $state('');
  snapshot = $state('');
  full = $state(false);
  file = $state('');
  /** What was sent by this browser, as `upload:<id>`; instead of a file of the host. */
  sent = $state('');
  sentName = $state('');
  gib = $state(0);
  more = $state<number[]>([]);
  uefi = $state(false);
  screen = $state(true);
  cloud = $state(false);
  keys = $state('');
  userData = $state('');

  /** It has disks of its own and boots from them. */
  machine = $derived(MACHINES.includes(this.source) || (this.source === 'snapshot' && this.base !== ''));
  /** It is made from another machine, with that one's sizes. */
  clone = $derived(this.source === 'template' || (this.source === 'snapshot' && this.base !== ''));
  from = $derived(this.sent || this.file.trim());
  ready = $derived.by(() => {
    switch (this.source) {
      case 'disk': case 'iso': return this.from !== '';
      case 'template': return this.base !== '';
      case 'empty': return this.gib > 0;
      case 'compose': return false;
      default: return this.machine ? this.snapshot !== '' : this.image.trim() !== '';
    }
  });

  wish = $derived.by((): Wish => ({
    project: this.project, name: this.name, image: this.image.trim(), command: words(this.command), env: lines(this.env), labels: pairs(this.labels),
    user: this.user, working_dir: '', hostname: '', tty: this.tty, open_stdin: this.tty,
    memory_bytes: Math.round((this.mib || 0) * MIB), cpus: this.cpus || 0, processes: this.processes || 0,
    mounts: this.mounts.filter((mount) => mount.target), network: this.network, ports: this.ports.filter((port) => port.port > 0), restart: this.restart,
    health: this.probe && this.health.command ? this.health : null, init: this.init, read_only: this.readOnly, privileged: false,
    isolation: this.apart ? 'vm' : '', start: this.start,
  }));

  #published = $derived(this.ports.filter((port) => port.port > 0).map((port) =>
    `${port.address ? `${port.address}:` : ''}${port.host_port || ''}${port.address || port.host_port ? ':' : ''}${port.port}${port.protocol === 'udp' ? '/udp' : ''}`));

  /** The call that makes the machine. */
  order = $derived.by((): { path: string; body: Record<string, unknown> } => {
    if (this.clone) {
      const from = this.source === 'snapshot' ? { snapshot: this.snapshot } : {};
      return { path: `/machines/${encodeURIComponent(this.base)}/clone`, body: { name: this.name, start: this.start, ...(this.full ? { full: true } : {}), ...from } };
    }
    const empty = (gib: number): Record<string, unknown> => ({ size_bytes: Math.round(gib * GIB) });
    const first = this.source === 'disk' ? [{ source: this.from, size_bytes: Math.round(this.gib * GIB) }] : this.gib > 0 ? [empty(this.gib)] : [];
    return {
      path: '/machines',
      body: {
        name: this.name, cpus: Math.max(1, Math.round(this.cpus || 1)), memory_bytes: Math.round((this.mib || 512) * MIB), uefi: this.uefi, display: this.screen ? 'vnc' : 'none',
        network: this.network === 'bridge' ? '' : this.network, publish: this.#published, restart: this.restart, labels: pairs(this.labels), start: this.start, project: this.project,
        disks: [...first, ...this.more.filter((gib) => gib > 0).map(empty)], cdroms: this.source === 'iso' ? [this.from] : [],
        ...(this.cloud ? { cloud_init: { user_data: this.userData, ssh_keys: lines(this.keys) } } : {}),
      },
    };
  });

  /** The same in other words. */
  async texts(): Promise<Texts> {
    if (!this.machine) return post<Texts>('/instances/preview', this.wish);
    const { path, body } = this.order;
    const call = `curl -H "authorization: Bearer $BERTH_TOKEN" -H 'content-type: application/json' \\\n  https://$BERTH_CONSOLE/api/v1${path} -d ${quoted(JSON.stringify(body, null, 2))}`;
    return { command: this.#machineCommand(), call, compose: '' };
  }

  #machineCommand(): string {
    const name = this.name || 'NAME';
    if (this.clone) {
      return ['berth vm clone', this.source === 'snapshot' ? `--snapshot ${this.snapshot}` : '', this.full ? '--full' : '', this.start ? '--start' : '', quoted(this.base), this.name].filter(Boolean).join(' ');
    }
    const disks = this.order.body['disks'] as { source?: string; size_bytes: number }[];
    const size = (bytes: number): string => (bytes % GIB ? `${Math.round(bytes / MIB)}m` : `${bytes / GIB}g`);
    return ['berth vm create', this.cpus > 1 ? `--cpus ${Math.round(this.cpus)}` : '', `--memory ${this.mib || 512}m`,
      ...disks.map((disk) => `--disk ${[disk.source && quoted(disk.source), disk.size_bytes ? `size=${size(disk.size_bytes)}` : ''].filter(Boolean).join(',')}`),
      this.source === 'iso' ? `--cdrom ${quoted(this.from)}` : '', this.uefi ? '--uefi' : '', this.screen ? '--display vnc' : '',
      this.network !== 'bridge' ? `--network ${this.network}` : '', ...this.#published.map((port) => `--publish ${port}`),
      this.cloud ? '--cloud-init' : '', ...(this.cloud ? lines(this.keys).map((key) => `--ssh-key ${quoted(key)}`) : []),
      this.project ? `--label berth.project=${this.project}` : '', this.restart !== 'no' ? `--restart ${this.restart}` : '', this.start ? '--start' : '', name].filter(Boolean).join(' ');
  }
}
