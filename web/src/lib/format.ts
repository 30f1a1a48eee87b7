// Numbers and times for people.

import { t } from './i18n.svelte';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export const rate = (count: number): string => `${bytes(count)}/s`;
export const percent = (part: number): string => `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} %`;

export function ago(millis: number): string {
  if (!millis || millis < 0) return '';
  const seconds = Math.max(0, Math.round((Date.now() - millis) / 1000));
  if (seconds < 60) return t('{n} s', { n: seconds });
  if (seconds < 3600) return t('{n} min', { n: Math.floor(seconds / 60) });
  if (seconds < 86400) return t('{n} h', { n: Math.floor(seconds / 3600) });
  return t('{n} d', { n: Math.floor(seconds / 86400) });
}

export const moment = (millis: number): string =>
  new Date(millis).toLocaleString(undefined, { dateStyle: 'short', timeStyle: 'medium' });

export const short = (id: string): string => id.replace(/^sha256:/, '').slice(0, 12);

/** Splits as a shell does, without expanding anything. */
export function words(line: string): string[] {
  const found: string[] = [];
  const pattern = /\s*((?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+)/gy;
  for (let match = pattern.exec(line); match; match = pattern.exec(line)) {
    const word = match[1] ?? '';
    found.push(word.replace(/"((?:[^"\\]|\\.)*)"|'([^']*)'|\\(.)/g, (_, double?: string, single?: string, one?: string) =>
      double !== undefined ? double.replace(/\\(["\\$`])/g, '$1') : (single ?? one ?? '')));
  }
  return found;
}

/** The reverse of `words`. */
export const line = (list: string[]): string =>
  list.map((word) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ');
