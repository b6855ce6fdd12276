/**
 * The memory of the local Slack: one state object, one file.
 *
 * Invariant: nothing the outside has seen can be forgotten. Whoever answers a request or sends a delivery awaits
 * `flush()` first, also for a mere read, since a read may show what another request has not stored yet. Writes are
 * grouped: while one save is under way, everything changed meanwhile goes into the next.
 */
import { appendFileSync, existsSync, readFileSync, renameSync, statSync } from 'node:fs';
import { mkdir, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { seed } from './seed.ts';
import type { ApiCall, SlackChannel, SlackData, SlackMessage, SlackUser } from './types.ts';

/** Enough to debug yesterday by; older calls are in the rotated file. */
const CALLS_IN_MEMORY = 20_000;
const CALLS_FILE_MAX_BYTES = 20_000_000;
/** A long-lived local world keeps this many finished deliveries for `redeliver`. */
const FINISHED_DELIVERIES_KEPT = 500;
const TRIGGERS_KEPT_MS = 60_000;

export class SlackStore {
  readonly data: SlackData;
  readonly stateDir: string;
  readonly calls: ApiCall[];
  readonly #path: string;
  readonly #callsPath: string;
  readonly #listeners = new Set<() => void>();
  #revision = 0;
  #savedRevision = -1;
  #saving: Promise<void> | undefined;

  private constructor(stateDir: string, data: SlackData, calls: ApiCall[]) {
    this.stateDir = stateDir;
    this.data = data;
    this.calls = calls;
    this.#path = join(stateDir, 'slack.json');
    this.#callsPath = join(stateDir, 'slack-calls.jsonl');
  }

  static async open(stateDir: string, teamId: string): Promise<SlackStore> {
    await mkdir(join(stateDir, 'files'), { recursive: true, mode: 0o700 });
    const path = join(stateDir, 'slack.json');
    const data = existsSync(path)
      ? (JSON.parse(readFileSync(path, 'utf8')) as SlackData)
      : seed(teamId, Date.now());
    if (data.format !== 1)
      throw new Error(`${path} was written by another version; move it away to start anew`);

    const callsPath = join(stateDir, 'slack-calls.jsonl');
    if (existsSync(callsPath) && statSync(callsPath).size > CALLS_FILE_MAX_BYTES) {
      renameSync(callsPath, `${callsPath}.1`);
    }
    const store = new SlackStore(stateDir, data, readCalls(callsPath));
    await store.flush();
    return store;
  }

  /** Marks the state as changed. Call it after every mutation of `data`, in the same synchronous stretch. */
  touch(): void {
    this.#revision += 1;
    for (const listener of this.#listeners) listener();
  }

  get revision(): number {
    return this.#revision;
  }

  /** Resolves once everything changed before this call is on disk. */
  async flush(): Promise<void> {
    const wanted = this.#revision;
    while (this.#savedRevision < wanted) {
      this.#saving ??= this.#save().finally(() => {
        this.#saving = undefined;
      });
      await this.#saving;
    }
  }

  /** Calls back after each change, before it is saved. Returns the way to stop. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  recordCall(call: ApiCall): void {
    appendFileSync(this.#callsPath, `${JSON.stringify(call)}\n`, { mode: 0o600 });
    this.calls.push(call);
    if (this.calls.length > CALLS_IN_MEMORY) this.calls.shift();
  }

  /** A message timestamp: unique, increasing, close to now. */
  nextTs(): string {
    this.data.lastTsMicros = Math.max(Date.now() * 1000, this.data.lastTsMicros + 1);
    const micros = this.data.lastTsMicros;
    return `${Math.floor(micros / 1_000_000)}.${String(micros % 1_000_000).padStart(6, '0')}`;
  }

  nextId(prefix: string): string {
    this.data.lastId += 1;
    return `${prefix}0${this.data.lastId.toString(36).toUpperCase().padStart(8, '0')}`;
  }

  user(id: string): SlackUser | undefined {
    return this.data.users.find((user) => user.id === id);
  }

  channel(id: string): SlackChannel | undefined {
    return this.data.channels.find((channel) => channel.id === id);
  }

  message(channel: string, ts: string): SlackMessage | undefined {
    return this.data.messages.find((message) => message.ts === ts && message.channel === channel);
  }

  ephemeral(channel: string, ts: string): SlackMessage | undefined {
    return this.data.ephemerals.find((message) => message.ts === ts && message.channel === channel);
  }

  repliesTo(channel: string, ts: string): SlackMessage[] {
    return this.data.messages.filter(
      (message) => message.channel === channel && message.thread_ts === ts && message.ts !== ts,
    );
  }

  async #save(): Promise<void> {
    const revision = this.#revision;
    this.#prune();
    const temporary = `${this.#path}.${process.pid}.tmp`;
    const file = await open(temporary, 'w', 0o600);
    try {
      await file.writeFile(JSON.stringify(this.data));
    } finally {
      await file.close();
    }
    await rename(temporary, this.#path);
    this.#savedRevision = revision;
  }

  #prune(): void {
    const { data } = this;
    const now = Date.now();
    data.triggers = data.triggers.filter((trigger) => trigger.expiresAtMs > now - TRIGGERS_KEPT_MS);
    data.responseUrls = data.responseUrls.filter((url) => url.expiresAtMs > now - TRIGGERS_KEPT_MS);
    const finished = data.deliveries.filter((delivery) => delivery.status !== 'pending');
    if (finished.length > FINISHED_DELIVERIES_KEPT) {
      const dropped = new Set(finished.slice(0, finished.length - FINISHED_DELIVERIES_KEPT));
      data.deliveries = data.deliveries.filter((delivery) => !dropped.has(delivery));
    }
  }
}

function readCalls(path: string): ApiCall[] {
  if (!existsSync(path)) return [];
  const calls: ApiCall[] = [];
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    if (line === '') continue;
    try {
      calls.push(JSON.parse(line) as ApiCall);
    } catch {
      // A line cut short by a kill belongs to a call that was never answered.
    }
  }
  return calls.slice(-CALLS_IN_MEMORY);
}
