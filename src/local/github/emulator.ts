/**
 * The `emulate` package's GitHub, opened up: its request handler and its store.
 *
 * Hides: that `createEmulator` offers neither persistence nor an in-process handler, and accepts unknown tokens on a port
 * of its own. The plugin object of its GitHub module is wrapped while one emulator is made, which hands us application
 * and store; its port is closed at once, so nothing is reachable except through our front. Holds for 0.12.2, which
 * package.json pins; any other layout fails loudly here at start.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** A row of the emulator's store; every collection stamps id and times. */
export interface Row {
  readonly id: number;
  created_at: string;
  updated_at: string;
}

export interface PullRow extends Row {
  readonly number: number;
  readonly repo_id: number;
  readonly title: string;
  readonly state: 'open' | 'closed';
  readonly draft: boolean;
  readonly merged: boolean;
  readonly head_ref: string;
  readonly head_sha: string;
  readonly base_ref: string;
  readonly base_sha: string;
}

export interface Collection<T extends Row = Row> {
  all(): T[];
  findBy(field: string, value: unknown): T[];
  findOneBy(field: string, value: unknown): T | undefined;
  update(id: number, patch: Record<string, unknown>): T | undefined;
}

/** Plain JSON: what `snapshot` returns may be written to disk and given to `restore` in another process. */
export interface Snapshot {
  readonly collections: Record<string, { items: (Row & Record<string, unknown>)[] }>;
  readonly data: Record<string, unknown>;
}

export interface Store {
  collection<T extends Row = Row>(name: string, indexFields?: string[]): Collection<T>;
  snapshot(): Snapshot;
  restore(snapshot: Snapshot): void;
}

export interface Emulated {
  fetch(request: Request): Promise<Response>;
  readonly store: Store;
}

interface Plugin {
  register(app: { fetch(request: Request): Promise<Response> }, store: Store, ...rest: unknown[]): void;
}

/** One at a time: the wrapped plugin object is shared by everything in this process. */
let opening: Promise<unknown> = Promise.resolve();

/** Opens an emulator whose links carry `baseUrl`; `seed` is emulate's own, and its first user is who acts by default. */
export function openEmulator(baseUrl: string, seed: Record<string, unknown>): Promise<Emulated> {
  const opened = opening.then(() => open(baseUrl, seed));
  opening = opened.catch(() => {});
  return opened;
}

async function open(baseUrl: string, seed: Record<string, unknown>): Promise<Emulated> {
  const { createEmulator } = await import('emulate');
  const plugin = await githubPlugin();
  const register = plugin.register;
  let captured: Emulated | null = null;
  plugin.register = (app, store, ...rest) => {
    captured = { fetch: (request) => app.fetch(request), store };
    register.call(plugin, app, store, ...rest);
  };
  try {
    const emulator = await createEmulator({ service: 'github', port: 0, baseUrl, seed });
    await emulator.close();
  } finally {
    plugin.register = register;
  }
  if (!captured)
    throw new Error('emulate made a GitHub without registering its plugin: pin emulate to 0.12.2.');
  return captured;
}

async function githubPlugin(): Promise<Plugin> {
  const entry = fileURLToPath(import.meta.resolve('emulate'));
  const source = await readFile(entry, 'utf8');
  const file = /label: "GitHub REST API emulator"[\s\S]*?import\("(\.\/dist-[^"]+)"\)/.exec(source)?.[1];
  if (!file) throw new Error('emulate has another layout than expected: pin it to 0.12.2.');
  const module = (await import(pathToFileURL(path.join(path.dirname(entry), file)).href)) as {
    githubPlugin: Plugin;
  };
  return module.githubPlugin;
}
