// What images say about themselves, asked for once while it is looked at.

import { get } from './api';

export interface ImageRow { id: string; names: string[]; size_bytes: number }
export interface ImageDetail { command: string[]; entrypoint: string[]; ports: string[]; volumes: string[]; env: string[] }

class Details {
  #known = $state.raw<Map<string, ImageDetail | null>>(new Map());

  /** Null until it is known, and where there is none. */
  of(image: string): ImageDetail | null {
    const name = image.trim();
    const known = this.#known.get(name);
    if (known === undefined && name) queueMicrotask(() => this.#ask(name));
    return known ?? null;
  }

  #ask(name: string): void {
    if (this.#known.has(name)) return;
    const keep = (detail: ImageDetail | null): void => void (this.#known = new Map([...this.#known, [name, detail]]));
    keep(null);
    void get<ImageDetail>(`/images/${encodeURIComponent(name)}`).then(keep, () => undefined);
  }

  /** An image of that name may be another one now. */
  forget(): void {
    this.#known = new Map();
  }
}

export const imageDetail = new Details();
