// Builds: their calls, and a folder of files as an archive.

import { post, put } from './api';
import type { Task } from './api';

export interface BuildRow { id: number; name: string; who: string; steps: number; cached: number; image: string | null }
export interface BuildStep { name: string; state: 'waiting' | 'running' | 'cached' | 'done' | 'failed'; started_unix_millis: number | null; ended_unix_millis: number | null; output: string }
export interface BuildDetail { id: number; name: string; who: string; warnings: string[]; steps: BuildStep[]; image: string | null; snippet: string }

export interface BuildWish { name: string; dockerfile: string; target: string; build_args: Record<string, string>; no_cache: boolean; pull: boolean }

const BLOCK = 512;
const encoder = new TextEncoder();

/** A header of ustar; longer names come as pax records before it. */
function header(name: string, size: number, kind: string): Uint8Array {
  const block = new Uint8Array(BLOCK);
  const put = (at: number, text: string): void => block.set(encoder.encode(text), at);
  block.set(encoder.encode(name).slice(0, 100), 0);
  put(100, '0000644\0');
  put(108, '0000000\0');
  put(116, '0000000\0');
  // Sizes of 8 GiB and more do not fit: no folder that a browser is given has such a file.
  put(124, `${size.toString(8).padStart(11, '0')}\0`);
  put(136, '00000000000\0');
  put(148, '        ');
  put(156, kind);
  put(257, 'ustar\x0000');
  put(148, `${block.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, '0')}\0 `);
  return block;
}

function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  const bytes = encoder.encode(rest).length;
  let length = bytes + String(bytes).length;
  if (String(length).length !== String(bytes).length) length = bytes + String(length).length;
  return `${length}${rest}`;
}

const padding = (size: number): Uint8Array => new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);

/** Files as a tar archive; the browser streams it from where they are. */
export function archive(files: Iterable<{ name: string; content: Blob }>): Blob {
  const parts: BlobPart[] = [];
  const add = (name: string, content: Blob, kind: string): void => void parts.push(header(name, content.size, kind) as BlobPart, content, padding(content.size) as BlobPart);
  for (const { name, content } of files) {
    if (encoder.encode(name).length > 100) add('pax', new Blob([record('path', name)]), 'x');
    add(name, content, '0');
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts);
}

/** Starts it; the Dockerfile of the text goes before one among the files. */
export async function build(wish: BuildWish, files: File[]): Promise<Task> {
  if (files.length === 0) return post<Task>('/builds', wish);
  // What a browser calls a file of a chosen folder begins with the folder's own name.
  const inside = (file: File): string => file.webkitRelativePath.split('/').slice(1).join('/') || file.name;
  const all = files.map((file) => ({ name: inside(file), content: file as Blob })).filter((file) => file.name !== 'Dockerfile' || !wish.dockerfile.trim());
  if (wish.dockerfile.trim()) all.push({ name: 'Dockerfile', content: new Blob([wish.dockerfile]) });
  const query = new URLSearchParams({ name: wish.name, target: wish.target, build_args: JSON.stringify(wish.build_args), no_cache: String(wish.no_cache), pull: String(wish.pull) });
  return put<Task>(`/builds?${query}`, archive(all), 'application/x-tar');
}
