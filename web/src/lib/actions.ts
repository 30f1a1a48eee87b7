// What buttons do to instances, with the question before what destroys.

import { post, remove } from './api';
import type { Instance, Task } from './api';
import { t } from './i18n.svelte';
import { shared } from './state.svelte';

export type Action = 'start' | 'stop' | 'restart' | 'pause' | 'unpause' | 'kill' | 'remove';

export const can: Record<Action, (state: string) => boolean> = {
  start: (state) => ['created', 'exited'].includes(state),
  stop: (state) => ['running', 'paused', 'restarting'].includes(state),
  restart: (state) => ['running', 'paused'].includes(state),
  pause: (state) => state === 'running',
  unpause: (state) => state === 'paused',
  kill: (state) => ['running', 'restarting'].includes(state),
  remove: (state) => state !== 'removing',
};

/** True once it is on its way; how it ends is told by its task. */
export async function act(action: Action, instances: Instance[]): Promise<boolean> {
  const fit = instances.filter((one) => can[action](one.state));
  if (fit.length === 0) return false;
  const names = fit.map((one) => one.name);
  let volumes = false;
  if (action === 'remove') {
    const running = fit.filter((one) => can.stop(one.state)).length;
    const answer = await shared.ask({
      title: fit.length === 1 ? t('Remove {name}?', { name: names[0] ?? '' }) : t('Remove {n} instances?', { n: fit.length }),
      text: running ? t('Running instances are ended. What they wrote outside of volumes is lost.') : t('What they wrote outside of volumes is lost.'),
      list: names,
      option: t('Unnamed volumes too'),
      action: t('Remove'),
    });
    if (!answer.yes) return false;
    volumes = answer.option;
  }
  if (action === 'kill') {
    const answer = await shared.ask({
      title: t('Kill {name}?', { name: names.join(', ') }),
      text: t('It ends at once and cannot save its work. Stop asks it first.'),
      action: t('Kill'),
    });
    if (!answer.yes) return false;
  }
  try {
    const containers = fit.filter((one) => !one.machine);
    const machines = fit.filter((one) => one.machine);
    if (containers.length) await post<Task>('/instances/bulk', { ids: containers.map((one) => one.id), action, force: action === 'remove', volumes });
    await Promise.all(machines.map((one) => machineAct(one.id, action)));
    return true;
  } catch (error) {
    shared.bad(error);
    return false;
  }
}

/** What a machine's buttons do; the list follows. */
export async function machineAct(id: string, action: string): Promise<void> {
  if (action === 'remove') await remove(`/machines/${id}?force=true`);
  else await post(`/machines/${id}/${action === 'unpause' ? 'resume' : action}`);
  await shared.reloadMachines();
}
