// A file on its way to the engine, in parts: it can be cancelled, and goes on after the connection or the engine was away.

import { ApiError, address, get, post, putPart, remove } from './api';
import type { Failure } from './api';
import { failureOf } from './api';

export interface Upload { id: string; name: string; size_bytes: number; received_bytes: number; kind: string; project: string | null; who: string; created_unix_millis: number }

const PART_BYTES = 8 << 20;
/** How long the engine may be away before it is given up. */
const AWAY_MILLIS_MAX = 10 * 60_000;

const sleep = (millis: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, millis));

export class Sending {
  received = $state(0);
  state = $state<'sends' | 'waits' | 'done' | 'failed' | 'cancelled'>('sends');
  failure = $state.raw<Failure | null>(null);
  #stop = new AbortController();
  #id = '';

  constructor(readonly file: File) {}

  get part(): number {
    return this.file.size ? this.received / this.file.size : 0;
  }

  /** `begun`: a part of it is there already. Answers what it is, or null where it failed or was cancelled. */
  async run(project: string, begun?: Upload): Promise<Upload | null> {
    try {
      const row = begun ?? (await post<Upload>('/uploads', { name: this.file.name, size_bytes: this.file.size, project }));
      this.#id = row.id;
      // Cancelled before it was known by what name.
      if (this.#stop.signal.aborted) {
        await remove(`/uploads/${row.id}`);
        return null;
      }
      return await this.#rest(row);
    } catch (error) {
      if (this.state !== 'cancelled') {
        this.failure = failureOf(error);
        this.state = 'failed';
      }
      return null;
    }
  }

  async #rest(from: Upload): Promise<Upload | null> {
    let row = from;
    let away = 0;
    while (!row.kind) {
      if (this.#stop.signal.aborted) return null;
      this.received = row.received_bytes;
      const next = this.file.slice(row.received_bytes, row.received_bytes + PART_BYTES);
      try {
        row = await putPart<Upload>(address(`/uploads/${row.id}?offset=${row.received_bytes}`), next, this.#stop.signal);
        [this.state, away] = ['sends', 0];
      } catch (error) {
        // What was refused stays refused; what was cut off goes on from where it was.
        const cut = error instanceof ApiError && [0, 502, 503, 409].includes(error.status);
        if (!cut || this.#stop.signal.aborted || (away && Date.now() - away > AWAY_MILLIS_MAX)) throw error;
        away ||= Date.now();
        this.state = 'waits';
        await sleep(1000);
        row = await get<Upload>(`/uploads/${row.id}`).catch((why: unknown) => {
          if (why instanceof ApiError && why.status === 404) throw why;
          return row;
        });
      }
    }
    this.received = this.file.size;
    this.state = 'done';
    return row;
  }

  async cancel(): Promise<void> {
    this.state = 'cancelled';
    this.#stop.abort();
    if (this.#id) await remove(`/uploads/${this.#id}`);
  }
}
