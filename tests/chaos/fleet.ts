/**
 * The worker processes of a chaos run: started, asked, killed, stopped, continued, ended, each by its own pid.
 *
 * Invariant: a slot holds one living process at most. A process that ends without having been told to is reported, never hidden
 * by its restart.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Answer, Answered, Ask, Asked } from './ask.ts';

/** FAULTS: an orderly end takes at most this long. */
const END_MS = 25_000;

type SlotState = 'down' | 'starting' | 'working' | 'stopped';

interface Slot {
  child: ChildProcess | undefined;
  state: SlotState;
  revival: NodeJS.Timeout | undefined;
  stop: NodeJS.Timeout | undefined;
}

export interface FleetOptions {
  readonly workers: number;
  readonly env: Readonly<Record<string, string>>;
  /** Workers' log lines go to files in this folder. */
  readonly folder: string;
  /** Stopped at the same time at most. */
  readonly maxStopped: number;
}

export class Fleet {
  readonly #options: FleetOptions;
  readonly #slots: Slot[];
  readonly #gone: string[] = [];
  /** Asked and not answered yet. */
  readonly #asked = new Map<number, { child: ChildProcess; settle: (answered: Answered) => void }>();
  #lastAskId = 0;
  #healing = false;
  kills = 0;
  stops = 0;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#slots = Array.from({ length: options.workers }, () => ({
      child: undefined,
      state: 'down',
      revival: undefined,
      stop: undefined,
    }));
    for (const index of this.#slots.keys()) this.#start(index);
  }

  /** Processes that ended by themselves: each is a defect. */
  get gone(): readonly string[] {
    return this.#gone;
  }

  get states(): readonly SlotState[] {
    return this.#slots.map((slot) => slot.state);
  }

  /**
   * Asks the process of the slot, which may be stopped and answer late. Rejects when there is none, when it fails, or when it ends before it
   * answered: then nobody knows whether it did what it was asked.
   */
  ask(index: number, ask: Ask): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const slot = this.#slots[index];
      if (!slot?.child || slot.state === 'starting') {
        reject(new Error(`worker ${index} does not work`));
        return;
      }
      this.#lastAskId += 1;
      const asked: Asked = { askId: this.#lastAskId, ask };
      const settle = ({ answer, failure }: Answered) => {
        this.#asked.delete(asked.askId);
        if (answer) resolve(answer);
        else reject(new Error(failure ?? 'no answer'));
      };
      this.#asked.set(asked.askId, { child: slot.child, settle });
      slot.child.send(asked, (error) => {
        if (error) settle({ askId: asked.askId, answer: null, failure: error.message });
      });
    });
  }

  /** Resolves when every process works. */
  async working(signal: AbortSignal): Promise<void> {
    while (this.states.some((state) => state !== 'working')) await pause(20, undefined, { signal });
  }

  /** Kills the process of the slot, or of the next one that works, and starts another after `downMs`. A stopped one keeps its time. */
  kill(wanted: number, downMs: number): void {
    const found = this.#next(wanted, (slot) => slot.state === 'working');
    if (!found) return;
    const { slot, index } = found;
    const { child } = slot;
    slot.child = undefined;
    slot.state = 'down';
    child?.kill('SIGKILL');
    this.kills += 1;
    slot.revival = setTimeout(() => this.#start(index), downMs);
  }

  /** Stops the process of the slot, or of the next one that works, and continues it after `forMs`. */
  stop(wanted: number, forMs: number): void {
    if (this.states.filter((state) => state === 'stopped').length >= this.#options.maxStopped) return;
    const found = this.#next(wanted, (slot) => slot.state === 'working');
    if (!found) return;
    const { slot } = found;
    slot.child?.kill('SIGSTOP');
    slot.state = 'stopped';
    this.stops += 1;
    slot.stop = setTimeout(() => this.#continue(slot), forMs);
  }

  /** Continues what is stopped and starts what is down, now. */
  heal(): void {
    this.#healing = true;
    for (const [index, slot] of this.#slots.entries()) {
      if (slot.state === 'stopped') this.#continue(slot);
      if (slot.state === 'down') this.#start(index);
    }
  }

  /** Asks every process to end. Returns what did not end as it should. */
  async end(): Promise<string[]> {
    this.heal();
    return (
      await Promise.all(
        this.#slots.map(async (slot, index) => {
          const { child } = slot;
          slot.child = undefined;
          if (!child) return [];
          const exited = once(child, 'exit');
          const overdue = setTimeout(() => child.kill('SIGKILL'), END_MS);
          child.kill('SIGTERM');
          const [code, signal] = (await exited) as [number | null, string | null];
          clearTimeout(overdue);
          return code === 0 ? [] : [`worker ${index} was asked to end and ended with ${code ?? signal}`];
        }),
      )
    ).flat();
  }

  /** Kills everything at once: for a supervisor that goes down. */
  abandon(): void {
    for (const slot of this.#slots) {
      clearTimeout(slot.revival);
      clearTimeout(slot.stop);
      const { child } = slot;
      slot.child = undefined;
      child?.kill('SIGKILL');
    }
  }

  #start(index: number): void {
    const slot = this.#slots[index];
    if (!slot || slot.child) return;
    clearTimeout(slot.revival);
    const log = openSync(path.join(this.#options.folder, `worker-${index}.log`), 'a');
    const child = spawn(process.execPath, [path.join(import.meta.dirname, 'worker.ts')], {
      stdio: ['ignore', log, log, 'ipc'],
      env: {
        PATH: process.env.PATH,
        HOME: process.env.HOME,
        NODE_COMPILE_CACHE: path.join(this.#options.folder, 'compile-cache'),
        ...this.#options.env,
      },
    });
    slot.child = child;
    slot.state = 'starting';
    child.on('message', (message: 'working' | Answered) => {
      if (message !== 'working') this.#asked.get(message.askId)?.settle(message);
      else if (slot.child === child) slot.state = 'working';
    });
    child.once('exit', (code, signal) => {
      for (const [askId, asked] of this.#asked)
        if (asked.child === child) asked.settle({ askId, answer: null, failure: 'the process ended' });
      // Whoever ends one takes it out of its slot first.
      if (slot.child !== child) return;
      this.#gone.push(`worker ${index} ended by itself: ${code ?? signal}`);
      slot.child = undefined;
      slot.state = 'down';
      slot.revival = setTimeout(() => this.#start(index), this.#healing ? 0 : 500);
    });
  }

  #continue(slot: Slot): void {
    clearTimeout(slot.stop);
    if (slot.state !== 'stopped') return;
    slot.child?.kill('SIGCONT');
    slot.state = 'working';
  }

  #next(wanted: number, fits: (slot: Slot) => boolean): { slot: Slot; index: number } | undefined {
    for (let offset = 0; offset < this.#slots.length; offset += 1) {
      const index = (wanted + offset) % this.#slots.length;
      const slot = this.#slots[index];
      if (slot && fits(slot)) return { slot, index };
    }
    return undefined;
  }
}
