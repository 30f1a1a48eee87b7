// What waits for instances whose image has a newer one; read once for all parts of a page that show it.

import { get, post } from './api';
import type { Task } from './api';
import { t } from './i18n.svelte';
import { shared } from './state.svelte';

export interface ImageUpdate {
  name: string; state: 'registry' | 'here' | 'current' | 'unknown' | 'local'; digest: string | null; asked_unix_millis: number; error: string;
  behind: { id: string; name: string }[]; instances: number;
}
export interface View { every_hours: number; asked_unix_millis: number; images: ImageUpdate[] }

class Updates {
  view = $state.raw<View | null>(null);
  waiting = $derived((this.view?.images ?? []).filter((one) => one.behind.length > 0));

  async load(): Promise<void> {
    try {
      this.view = await get<View>('/updates');
    } catch {
      // Another host may not know the question; what is not known is not shown.
      this.view = null;
    }
  }

  of(id: string): ImageUpdate | undefined {
    return this.waiting.find((one) => one.behind.some((behind) => behind.id === id));
  }

  running(name: string): Task | undefined {
    return shared.tasks.find((task) => task.act === 'instance.upgrade' && task.target === name && task.state === 'running');
  }

  /** Asks first: what it wrote outside of volumes goes. */
  async bring(image: string, all: { id: string; name: string }[]): Promise<boolean> {
    const answer = await shared.ask({
      title: all.length === 1 ? t('Update {name}?', { name: all[0]?.name ?? '' }) : t('Update {n} instances?', { n: all.length }),
      text: t('The newest {image} is fetched, and made into a new instance with the same settings. What it wrote outside of volumes is lost. If the new one is not well, the old one comes back.', { image }),
      list: all.map((one) => one.name), action: t('Update'), harmless: true,
    });
    if (!answer.yes) return false;
    return shared.attempt(async () => {
      for (const one of all) await post<Task>(`/instances/${one.id}/upgrade`);
    });
  }
}

export const updates = new Updates();
export const WHERE: Record<string, string> = { registry: 'a newer one waits at its registry', here: 'a newer one is on this host', current: 'up to date', unknown: 'not known', local: 'made here' };
